"""The browser holds to the lab's policy: nothing of the lab needs more, and no other page can frame it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytestmark = pytest.mark.browser
PAGES = ("", "explore", "explain", "immunize", "lessons", "benchmark", "review", "about")


def test_no_page_asks_for_more_than_the_policy_allows(open_lab, driver):
    lab = open_lab()
    for page in PAGES:
        lab.browser.get(f"{lab.url}/{page}")
        driver.settled(lab.browser)
        said = [entry["message"] for entry in lab.browser.get_log("browser")]
        assert not [message for message in said if "Content Security Policy" in message], page


def test_another_site_cannot_frame_the_lab(open_lab, driver):
    lab = open_lab()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f'<iframe id="f" src="{lab.url}"></iframe>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)  # a browser also opens connections that say nothing
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        lab.browser.get(f"http://127.0.0.1:{site.server_port}/")
        lab.browser.switch_to.frame("f")
        assert not lab.browser.find_elements("css selector", "[data-testid=stApp]")
        said = " ".join(entry["message"] for entry in lab.browser.get_log("browser"))
        assert "frame-ancestors" in said or "X-Frame-Options" in said
    finally:
        site.shutdown()
        site.server_close()
