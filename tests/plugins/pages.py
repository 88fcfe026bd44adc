"""A page of the lab from another package; tests/app/test_registry.py visits one."""

from app.page import Page

PAGE = Page(name="hello", title="Hello", icon=":material/waving_hand:")


def use() -> object:
    """Find it behind the lab's own pages."""
    from app.registry import PAGES

    return list(PAGES)[-1] == "hello"
