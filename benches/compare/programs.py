"""The compared programs and their configurations: each balances TCP over some servers.

Nothing is installed, and programs that are not on this machine are omitted. Each program has
`workers` worker processes, room for 20000 connections and a connect timeout of 5 s. Otherwise it
has the settings that its users would choose.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass

CONNECTIONS = 20000


@dataclass
class Job:
    """The task of a program."""
    port: int
    servers: list
    workers: int = 1
    sticky: bool = True
    clients: int = 20000
    splice: bool = False
    # The file with certificate and key, if clients use TLS.
    certificate: str = ""


class Program:
    """A program on this machine."""

    def __init__(self, name, path, multi=True):
        self.name, self.path, self.multi = name, path, multi

    def can(self, job):
        return (self.multi or job.workers == 1) and (self.plain or bool(job.certificate))

    def is_usable(self):
        """Whether the program has everything that it needs here."""
        return True

    def command(self, job, directory):
        raise NotImplementedError

    def version(self):
        command = [self.path, self.version_option]
        text = subprocess.run(command, capture_output=True, text=True, check=False)
        return (text.stdout + text.stderr).strip().splitlines()[0]

    version_option = "-v"
    # Whether it balances without TLS, too.
    plain = True


def modes(job):
    """The options of both pens for a job."""
    sticky = [] if job.sticky else ["-r"]
    return sticky + (["-E", job.certificate] if job.certificate else [])


def addresses(job):
    """The operands of both pens for a job."""
    return [f"127.0.0.1:{port}" for port in (job.port, *job.servers)]


class Pen(Program):
    """This project's program."""
    version_option = "--version"

    def command(self, job, directory):
        return [self.path, "-f", "-x", str(CONNECTIONS), "-c", str(job.clients),
                "--workers", str(job.workers), *modes(job), *addresses(job)]


class OldPen(Program):
    """The original pen, which has one process and no option for its version."""

    def can(self, job):
        # It searches its clients one by one. With many clients it takes minutes or stops serving.
        return super().can(job) and job.clients <= 20_000

    def command(self, job, directory):
        return [self.path, "-f", "-x", str(CONNECTIONS), "-c", str(job.clients),
                "-S", str(len(job.servers) + 1), *modes(job), *addresses(job)]

    def version(self):
        return "original, as packaged"


class Haproxy(Program):
    """haproxy in TCP mode, with splice(2) for jobs with much data."""

    def command(self, job, directory):
        table = f"stick-table type ip size {max(job.clients, 1000)} expire 1h\n stick on src\n"
        sticky = table if job.sticky else ""
        # With splice it needs descriptors for pipes, too.
        splice = " option splice-auto\n" if job.splice else ""
        tls = f" ssl crt {job.certificate} ssl-min-ver TLSv1.2" if job.certificate else ""
        servers = "".join(f" server s{n} 127.0.0.1:{port}\n" for n, port in enumerate(job.servers))
        path = os.path.join(directory, "haproxy.cfg")
        with open(path, "w", encoding="ascii") as file:
            file.write(f"""global
 maxconn {6000 if job.splice else CONNECTIONS // 2 - 200}
 nbthread {job.workers}
defaults
 mode tcp
 timeout connect 5s
 timeout client 10m
 timeout server 10m
{splice}listen all
 bind 127.0.0.1:{job.port} backlog 4096{tls}
 balance roundrobin
 {sticky}{servers}""")
        return [self.path, "-db", "-f", path]


class Nginx(Program):
    """nginx's stream module; a client stays with a server by a consistent hash."""

    module = "/usr/lib/nginx/modules/ngx_stream_module.so"

    def is_usable(self):
        built = subprocess.run([self.path, "-V"], capture_output=True, text=True, check=False)
        return os.path.exists(self.module) or "--with-stream" in built.stderr.split()

    def command(self, job, directory):
        load = f"load_module {self.module};\n" if os.path.exists(self.module) else ""
        sticky = "hash $remote_addr consistent;" if job.sticky else ""
        servers = "".join(f"server 127.0.0.1:{port};" for port in job.servers)
        listen, tls = "", ""
        if job.certificate:
            listen = " ssl"
            tls = (f"ssl_certificate {job.certificate}; ssl_certificate_key {job.certificate}; "
                   "ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:tls:10m;")
        path = os.path.join(directory, "nginx.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(f"""{load}user root;
daemon off;
worker_processes {job.workers};
worker_rlimit_nofile {CONNECTIONS};
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {CONNECTIONS}; }}
stream {{
 upstream all {{ {sticky} {servers} }}
 server {{
  listen 127.0.0.1:{job.port} backlog=4096{listen}; {tls}
  proxy_pass all; proxy_connect_timeout 5s; proxy_timeout 10m;
 }}
}}
""")
        return [self.path, "-p", directory, "-c", path]


class Hitch(Program):
    """hitch, a TLS proxy for one server."""
    version_option = "--version"
    plain = False

    def command(self, job, directory):
        path = os.path.join(directory, "hitch.conf")
        with open(path, "w", encoding="ascii") as file:
            file.write(f"""frontend = "[127.0.0.1]:{job.port}"
backend = "[127.0.0.1]:{job.servers[0]}"
pem-file = "{job.certificate}"
workers = {job.workers}
daemon = off
quiet = on
tls-protos = TLSv1.2 TLSv1.3
backlog = 4096
user = "nobody"
group = "nogroup"
ocsp-dir = ""
""")
        return [self.path, "--config", path]


def found(pen):
    """All programs that are on this machine, `pen` first."""
    programs = [Pen("pen", pen)]
    for kind, name, command, multi in [(Haproxy, "haproxy", "haproxy", True),
                                       (Nginx, "nginx", "nginx", True),
                                       (Hitch, "hitch", "hitch", True),
                                       (OldPen, "pen 0.34", "/usr/bin/pen", False)]:
        path = shutil.which(command, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if path and not (kind is OldPen and os.path.samefile(path, pen)):
            program = kind(name, path, multi)
            if program.is_usable():
                programs.append(program)
    return programs
