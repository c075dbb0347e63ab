"""A payment server to try the example with: python3 payments.py [PORT]

POST /charges  {"order": "A-7", "cents": 1300}, with the header Idempotency-Key
               201 {"reference": "…"}; the same again for the same key; 402 above 1000.00
GET /charges   what was charged, by key
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHARGES = {}


class Payments(BaseHTTPRequestHandler):
    def do_POST(self):
        key = self.headers["Idempotency-Key"]
        charge = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if charge["cents"] > 100_000:
            return self.answer(402, {"error": "too much"})
        if key not in CHARGES:
            CHARGES[key] = {"reference": f"ch-{len(CHARGES) + 1}", "cents": charge["cents"]}
        self.answer(201, {"reference": CHARGES[key]["reference"]})

    def do_GET(self):
        self.answer(200, CHARGES)

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8402
    ThreadingHTTPServer(("127.0.0.1", port), Payments).serve_forever()
