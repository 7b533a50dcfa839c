"""The demo's middle tier: a small JSON API over PostgreSQL, standard library and psycopg2 only.

GET /health    200 once the database answers (the readiness probe)
GET /livez     200 while the process lives
GET /users     all rows
POST /users    {"name": "..."} adds one; 201 with its id once PostgreSQL has committed it
GET /transfers?run=R    what all accounts hold together, and the ids beginning with R of transfers between them
POST /transfers         {"id", "from", "to", "amount"} moves money between accounts 1 to 10; 201 once it is committed,
                        200 when a transfer with that id was committed before
"""

import json
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg2
import psycopg2.errors

DSN = {
    "host": os.environ.get("DB_HOST", "postgres"),
    "dbname": os.environ.get("DB_NAME", "app"),
    "user": os.environ.get("DB_USER", "app"),
    "password": os.environ.get("DB_PASSWORD", ""),
    "connect_timeout": 3,
    "options": "-c statement_timeout=5000",
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 4000,
}
SCHEMA = """
CREATE TABLE IF NOT EXISTS users (id serial PRIMARY KEY, name text NOT NULL);
CREATE TABLE IF NOT EXISTS accounts (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE IF NOT EXISTS transfers (id text PRIMARY KEY, source int, target int, amount int);
INSERT INTO accounts SELECT n, 1000 FROM generate_series(1, 10) AS n ON CONFLICT DO NOTHING
"""
# One statement, so one transaction: the entry of the ledger and both balances, or nothing.
TRANSFER = """
WITH entry AS (INSERT INTO transfers VALUES (%s, %s, %s, %s) RETURNING *)
UPDATE accounts SET balance = balance + CASE accounts.id WHEN entry.target THEN entry.amount ELSE -entry.amount END
FROM entry WHERE accounts.id IN (entry.source, entry.target)
"""
ACCOUNTS = set(range(1, 11))
_local = threading.local()


def query(sql, values=()):
    """Run one statement in its own transaction; a broken connection is replaced once."""
    for attempt in (1, 2):
        try:
            if getattr(_local, "connection", None) is None:
                _local.connection = psycopg2.connect(**DSN)
            with _local.connection as connection, connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.OperationalError:
            _local.connection = None
            if attempt == 2:
                raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Served-By", socket.gethostname())
        self.end_headers()
        self.wfile.write(data)

    def guarded(self, work):
        try:
            self.answer(*work())
        except psycopg2.Error as error:
            self.answer(503, {"error": str(error).strip().splitlines()[0] if str(error).strip() else "database error"})

    def do_GET(self):
        if self.path == "/livez":
            self.answer(200, {"ok": True})
        elif self.path == "/health":
            self.guarded(lambda: (200, {"ok": query("SELECT 1") == [(1,)]}))
        elif self.path == "/users":
            self.guarded(
                lambda: (
                    200,
                    {
                        "users": [{"id": i, "name": n} for i, n in query("SELECT id, name FROM users ORDER BY id")],
                        "served_by": socket.gethostname(),
                    },
                )
            )
        elif self.path.startswith("/transfers"):
            self.guarded(self.transfers)
        else:
            self.answer(404, {"error": "try /users"})

    def transfers(self):
        run = parse_qs(urlsplit(self.path).query).get("run", [""])[0]
        [(total,)] = query("SELECT sum(balance)::bigint FROM accounts")
        ids = query("SELECT id FROM transfers WHERE starts_with(id, %s)", (run,))
        return 200, {"total": total, "ids": [name for (name,) in ids]}

    def transfer(self, body):
        values = (body["id"], body["from"], body["to"], body["amount"])
        try:
            query(TRANSFER, values)
        except psycopg2.errors.UniqueViolation:
            return 200, body
        return 201, body

    def do_POST(self):
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            if self.path == "/transfers":
                body = {"id": str(body["id"]), **{key: int(body[key]) for key in ("from", "to", "amount")}}
                if not {body["from"], body["to"]} <= ACCOUNTS:
                    return self.answer(400, {"error": "accounts are 1 to 10"})
                return self.guarded(lambda: self.transfer(body))
            if self.path != "/users":
                return self.answer(404, {"error": "try /users"})
            name = str(body["name"])
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'send {"name": "..."}'})
        self.guarded(
            lambda: (
                201,
                {"id": query("INSERT INTO users (name) VALUES (%s) RETURNING id", (name,))[0][0], "name": name},
            )
        )

    def log_message(self, form, *args):
        if not self.path.startswith(("/health", "/livez")):
            print(self.address_string(), form % args, flush=True)


def prepare():
    """Make the table as soon as the database answers; the readiness probe waits for it meanwhile."""
    wait = threading.Event()
    while True:
        try:
            query(SCHEMA)
            print("database ready", flush=True)
            return
        except psycopg2.Error as error:
            print("waiting for the database:", str(error).strip().splitlines()[:1], flush=True)
            wait.wait(0.5)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("", int(os.environ.get("PORT", "3000"))), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    threading.Thread(target=prepare, daemon=True).start()
    server.serve_forever()
