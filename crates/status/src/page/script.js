"use strict";
(() => {
	// What the reader chose. It applies to each new answer, too.
	let column = -1, descending = true, state = "", words = "";
	let timer = 0, running = false, failures = 0, lastGood = Date.now();
	const root = document.documentElement;
	const code = page =>
		page.querySelector("style").textContent + page.querySelector("script").textContent;

	// Makes a tree like another one. Nodes stay where they can: focus, selection and scrolling do.
	function morph(old, next) {
		const mine = name => name === "open" && old.nodeName === "DETAILS";
		for (const { name } of [...old.attributes])
			if (!next.hasAttribute(name) && !mine(name)) old.removeAttribute(name);
		for (const { name, value } of next.attributes)
			if (old.getAttribute(name) !== value && !mine(name)) old.setAttribute(name, value);
		let at = old.firstChild;
		for (const child of [...next.childNodes]) {
			const known = child.id && document.getElementById(child.id);
			if (known && known !== at && known.parentNode === old) at = old.insertBefore(known, at);
			if (at && at.nodeName === child.nodeName && (at.id || "") === (child.id || "")) {
				if (at.nodeType === 1) morph(at, child);
				else if (at.nodeValue !== child.nodeValue) at.nodeValue = child.nodeValue;
				at = at.nextSibling;
			} else old.insertBefore(child, at);
		}
		while (at) {
			const gone = at;
			at = at.nextSibling;
			gone.remove();
		}
	}

	// Gives a page what only script can do, and applies what the reader chose.
	function arrange(page) {
		const table = page.querySelector("table.servers");
		if (!table) return;
		table.querySelectorAll("thead th").forEach((head, index) => {
			if (!head.querySelector("button")) {
				const button = page.createElement("button");
				button.type = "button";
				button.append(...head.childNodes);
				button.dataset.sort = index;
				head.append(button);
			}
			if (index === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
			else head.removeAttribute("aria-sort");
		});
		const rows = [...table.tBodies[0].rows];
		if (rows.length > 5 && !page.getElementById("filter")) {
			const input = page.createElement("input");
			Object.assign(input, { type: "search", id: "filter", className: "filter" });
			input.placeholder = "Find a server";
			input.setAttribute("aria-label", input.placeholder);
			page.getElementById("servers").after(input);
		}
		page.querySelectorAll(".states li").forEach(item => {
			let button = item.querySelector("button");
			if (!button) {
				button = page.createElement("button");
				button.type = "button";
				button.append(...item.childNodes);
				item.append(button);
			}
			button.setAttribute("aria-pressed", item.dataset.state === state);
		});
		if (column >= 0) {
			const value = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
			// Figures have fixed decimals, so that this order is theirs, too.
			rows.sort((a, b) => value(a).localeCompare(value(b), "en", { numeric: true }));
			if (descending) rows.reverse();
			table.tBodies[0].append(...rows);
		}
		for (const row of rows)
			row.hidden = !!(state && row.dataset.state !== state) ||
				!row.textContent.toLowerCase().includes(words);
	}

	function lost(why) {
		const note = document.getElementById("lost");
		const text = `No figures since ${new Date(lastGood).toLocaleTimeString()}: ${why}. Trying again.`;
		root.classList.add("stale");
		note.hidden = false;
		if (note.textContent !== text) note.textContent = text;
	}

	async function load() {
		const signal = AbortSignal.timeout(8000);
		const answer = await fetch(location.pathname, { cache: "no-store", signal });
		if (!answer.ok) throw new Error(`pen answers ${answer.status}`);
		const next = new DOMParser().parseFromString(await answer.text(), "text/html");
		if (!next.querySelector("main")) throw new Error("the answer is another page");
		// Another version of pen has another style and script.
		if (code(next) !== code(document)) return location.reload();
		arrange(next);
		morph(document.body, next.body);
		document.title = next.title;
		const icon = page => page.querySelector("link[rel=icon]");
		if (icon(document).href !== icon(next).href) icon(document).href = icon(next).href;
		root.classList.remove("stale");
	}

	async function refresh() {
		clearTimeout(timer);
		if (running || document.hidden) return;
		running = true;
		const begin = performance.now();
		try {
			await load();
			failures = 0;
			lastGood = Date.now();
		} catch (error) {
			failures += 1;
			const known = { TimeoutError: "no answer in 8 s", TypeError: "pen cannot be reached" };
			lost(known[error.name] ?? error.message);
		}
		running = false;
		// A large page on a slow machine is asked for less often.
		const took = performance.now() - begin;
		const pause = Math.max(1000 - took, 3 * took);
		timer = setTimeout(refresh, failures ? Math.min(failures, 5) * 1000 : pause);
	}

	document.addEventListener("click", event => {
		const button = event.target.closest("button");
		if (!button) return;
		const chosen = button.parentNode.dataset.state;
		if (chosen) state = state === chosen ? "" : chosen;
		else {
			const index = Number(button.dataset.sort);
			// Numbers begin with the largest, names with the first. The third time is no order.
			const first = index > 1;
			if (column !== index) [column, descending] = [index, first];
			else if (descending === first) descending = !first;
			else column = -1;
		}
		arrange(document);
		if (column < 0) refresh();
	});
	document.addEventListener("input", event => {
		if (event.target.id !== "filter") return;
		words = event.target.value.trim().toLowerCase();
		arrange(document);
	});
	document.addEventListener("visibilitychange", refresh);
	addEventListener("online", refresh);
	root.classList.add("script");
	arrange(document);
	timer = setTimeout(refresh, 1000);
})();
