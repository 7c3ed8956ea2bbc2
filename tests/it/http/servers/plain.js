// A server of node: node plain.js PORT. Writes what it took for requests to standard output, a line
// each.
const http = require("http");
const fs = require("fs");

const crc = (bytes) => {
  let sum = -1;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (0xedb88320 & -(sum & 1));
  }
  return (sum ^ -1) >>> 0;
};

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("error", () => {});
  request.on("end", () => {
    const body = Buffer.concat(pieces);
    const raw = request.rawHeaders;
    const lists = raw.filter((_, place) =>
        place % 2 === 1 && raw[place - 1].toLowerCase() === "x-forwarded-for");
    const trailer = request.trailers["x-forwarded-for"];
    const all = trailer === undefined ? lists : lists.concat(trailer);
    const words = ["SEEN", 200, encodeURI(request.url), body.length, crc(body)]
        .concat(all.map((list) => encodeURI(list).replaceAll("%20", " ")));
    fs.writeSync(1, words.join("\t") + "\n");
    response.end("ok");
  });
});
server.on("clientError", (_, socket) => socket.destroy());
server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 512 });
