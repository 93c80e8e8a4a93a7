"""What gives out tokens for the Planetary Computer's files, on loopback."""

import json
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler


class SasEndpoint(BaseHTTPRequestHandler):
    """Gives out a new token at each request, as `GET /<account>/<container>`."""

    def do_GET(self):
        with self.lock:
            self.asked.append((self.path, self.headers.get("Ocp-Apim-Subscription-Key")))
            fault = self.faults.popleft() if self.faults else ""
            token = f"st=2024&se=2025&sp=rl&sig=SECRET{len(self.asked)}"
        if fault == "hang up":
            self.close_connection = True
            return
        expiry = datetime.now(UTC) + self.life[0]
        answer = json.dumps({"msft:expiry": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"), "token": token})
        if fault == "no token":
            answer = '{"sig": "SECRET"}'
        self.send_response(fault if isinstance(fault, int) else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *args):
        pass
