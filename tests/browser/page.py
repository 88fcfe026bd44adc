"""The lab as a person uses it: what the browser tests do, in their words."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

try:
    from tests.browser.driver import settled
except ImportError:  # run as a script from its own folder
    from driver import settled


class Lab:
    """A page of the lab in a browser."""

    def __init__(self, browser, url: str):
        self.browser, self.url = browser, url

    def open(self, path: str = "", wait: str = ".cm-headline") -> float:
        """Opens a page; returns the seconds until its headline stood there."""
        start = time.monotonic()
        self.browser.get(self.url + path)
        self.wait_for(wait)
        seconds = time.monotonic() - start
        settled(self.browser)
        return seconds

    # Looking

    def all(self, css: str) -> list:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str = "[data-testid=stMain]") -> str:
        """The text of the first match, however often the page redraws it meanwhile."""
        for _ in range(20):
            with contextlib.suppress(StaleElementReferenceException):
                found = self.all(css)
                return found[0].text if found else ""
            time.sleep(0.05)
        return ""

    def charts(self) -> str:
        """The text of all SVG charts: they stand in shadow roots, which `text` does not see."""
        script = """
        const found = [];
        const walk = root => { for (const e of root.querySelectorAll('*')) {
            if (e.matches('.chart')) found.push(e.textContent);
            if (e.shadowRoot) walk(e.shadowRoot); } };
        walk(document); return found.join(' ');
        """
        return self.browser.execute_script(script)

    def until(self, condition, seconds: float = 90, what: str = "the page"):
        """Waits until condition() is true and returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(WebDriverException):
                value = condition()
                if value:
                    return value
            time.sleep(0.05)
        raise AssertionError(f"waited {seconds} s for {what}; the page says:\n{self.text()[:1500]}")

    def wait_for(self, css: str, seconds: float = 90):
        return self.until(lambda: next((e for e in self.all(css) if e.is_displayed()), None), seconds, css)

    def wait_for_text(self, words: str, seconds: float = 90) -> str:
        return self.until(lambda: (t := self.text()) and words.lower() in t.lower() and t, seconds, repr(words))

    def no_error(self) -> None:
        """Neither a traceback nor one of the lab's own red boxes."""
        assert not self.all("[data-testid=stException]"), self.text()
        assert "went wrong" not in self.text()

    # Doing

    def press(self, key: str) -> None:
        """Clicks the button of this key."""
        self.until(lambda: self._click(f".st-key-{key} button"), what=f"the button {key}")

    def _click(self, css: str) -> bool:
        found = [e for e in self.all(css) if e.is_displayed() and e.is_enabled()]
        if not found:
            return False
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[0])
        found[0].click()
        return True

    def unfold(self, key: str, inside: str) -> None:
        """Opens the popover of this key, unless what lies inside (CSS) is on show."""
        if not any(e.is_displayed() for e in self.all(inside)):
            self.press(key)
            self.wait_for(inside)
            settled(self.browser)

    def fold(self) -> None:
        """Closes whatever popover is open."""
        self.browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        settled(self.browser)

    def press_close(self) -> None:
        """Closes the dialog."""
        self.until(lambda: self._click('[data-testid=stDialog] button[aria-label="Close"]'), what="the dialog's cross")
        self.until(lambda: not self.all("[data-testid=stDialog]"), what="the dialog to close")

    def tab(self, words: str) -> None:
        """Opens a tab by its words."""
        found = self.until(lambda: next((e for e in self.all("[role=tab]") if e.text.strip() == words), None))
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
        found.click()
        settled(self.browser)

    def follow(self, words: str) -> None:
        """Opens a page by its link, which keeps the session (an address would start a new one)."""
        self.until(lambda: next((e for e in self.all("a") if e.text.strip().endswith(words)), None), what=words).click()
        settled(self.browser)

    def type(self, key: str, words: str) -> None:
        """Replaces the text of the field of this key and leaves it."""
        field = self.wait_for(f".st-key-{key} input, .st-key-{key} textarea")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(words)
        field.send_keys(Keys.CONTROL, Keys.ENTER) if field.tag_name == "textarea" else field.send_keys(Keys.ENTER)
        settled(self.browser)

    def select(self, key: str, option: str) -> None:
        """Chooses an option of a select box by its words."""
        box = self.wait_for(f".st-key-{key} [data-baseweb=select], .st-key-{key} [role=combobox]")
        box.click()
        self.until(lambda: self._click_option(option), what=f"the option {option} of {key}")
        settled(self.browser)

    def _click_option(self, option: str) -> bool:
        for item in self.all("[role=option]"):
            if item.text.strip() == option:
                item.click()
                return True
        return False

    def segment(self, key: str, option: str) -> None:
        """Chooses in a segmented control."""
        self.until(lambda: self._click_segment(key, option), what=f"{option} of {key}")
        settled(self.browser)

    def _click_segment(self, key: str, option: str) -> bool:
        for item in self.all(f".st-key-{key} button"):
            if item.text.strip() == option:
                item.click()
                return True
        return False

    def chips(self, key: str, wanted: set[str]) -> None:
        """Makes exactly these chips of a group the chosen ones."""
        for words in [chip.text.strip() for chip in self.all(f".st-key-{key} button[aria-pressed]")]:
            if self._chip(key, words, words in wanted):
                settled(self.browser)

    def _chip(self, key: str, words: str, on: bool) -> bool:
        """Clicks a chip where it is not as wanted; whether it had to."""

        def find():
            return next((c for c in self.all(f".st-key-{key} button[aria-pressed]") if c.text.strip() == words), None)

        chip = self.until(find, what=f"the chip {words}")
        if (chip.get_attribute("aria-pressed") == "true") == on:
            return False
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", chip)
        chip.click()
        return True

    def slide(self, key: str, steps: int) -> None:
        """Moves a slider by the arrow keys."""
        thumb = self.until(lambda: self.all(f".st-key-{key} input[type=range]"))[0]
        thumb.send_keys((Keys.ARROW_RIGHT if steps > 0 else Keys.ARROW_LEFT) * abs(steps))
        settled(self.browser)

    def click_cell(self, key: str, row: int) -> None:
        """Clicks the last column of a row of the table of this key (tables are drawn on a canvas)."""
        table = self.wait_for(f".st-key-{key} [data-testid=stDataFrame]")
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", table)
        settled(self.browser)
        across, down = table.size["width"] / 2 - 40, 48 + 32 * row - table.size["height"] / 2
        ActionChains(self.browser).move_to_element_with_offset(table, across, down).click().perform()
        settled(self.browser)

    def pick(self, collection: str, query: str) -> str:
        """Picks the first picture that a search in the browser of examples finds; returns its caption."""
        self.unfold("pair_menu", ".st-key-open_browse button")
        self.press("open_browse")
        self.wait_for("[data-testid=stDialog]")
        settled(self.browser)
        self.segment("browse_set", collection)
        self.type("browse_query", query)
        caption = self.until(lambda: self._pick_first(query), 60, "a thumbnail")
        self.until(lambda: not self.all("[data-testid=stDialog]"), what="the dialog to close")
        settled(self.browser)
        return caption

    def _pick_first(self, query: str) -> str:
        script = """
        const walk = root => { for (const e of root.querySelectorAll('*')) {
            if (e.matches && e.matches('button[data-id]') && e.getBoundingClientRect().width) return e;
            if (e.shadowRoot) { const f = walk(e.shadowRoot); if (f) return f; } } return null; };
        const b = walk(document);
        if (!b || !arguments[0].split(' ').every(w => b.title.toLowerCase().includes(w))) return '';
        const title = b.title; b.click(); return title;
        """
        return self.browser.execute_script(script, query.lower())

    def upload(self, path: Path, caption: str) -> None:
        """Uploads a picture with its sentence."""
        self.unfold("pair_menu", ".st-key-open_upload button")
        self.press("open_upload")
        self.wait_for("[data-testid=stDialog]")
        settled(self.browser)
        self.until(lambda: self.all("[data-testid=stDialog] input[type=file]"))[0].send_keys(str(path))
        self.type("upload_caption", caption)
        self.press("upload_use")
        self.until(lambda: not self.all("[data-testid=stDialog]"), what="the dialog to close")
        settled(self.browser)

    def attack(self, seconds: float = 120) -> None:
        """Starts an attack and waits for its result."""
        self.press("start_attack")
        self.wait_for(".st-key-cancel_attack button", seconds)
        self.until(lambda: self.all(".st-key-start_attack button"), seconds, "the attack to end")
        settled(self.browser)
        self.wait_for(".cm-finding")

    def scores(self) -> dict[str, tuple[float, float]]:
        """Role → (S_c clean, S_c adversarial) as the cards print them, even while a verdict is being put on them."""
        for _ in range(20):
            with contextlib.suppress(StaleElementReferenceException):
                return self._scores()
            time.sleep(0.05)
        return self._scores()

    def _scores(self) -> dict[str, tuple[float, float]]:
        found = {}
        for card in self.all(".cm-model-card"):
            role = card.get_attribute("aria-label").split()[1]
            values = [e.text for e in card.find_elements(By.CSS_SELECTOR, ".cm-score b")]
            found[role] = tuple(float("nan") if v == "–" else float(v.replace("−", "-")) for v in values[:2])
        return found
