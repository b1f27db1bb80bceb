"""The page at ``/`` of the admin listener: what is held, what is followed, what was lost and why, second by second.

For people, and only to look at. One document without anything from elsewhere; what it shows comes as a stream of
snapshots, each of bounded size however much there is, made at most once a second for all readers together.
"""

from renewer.daemon.page.site import Page, say_there_is_no_page
from renewer.daemon.page.snapshot import NEWSWORTHY

__all__ = ["NEWSWORTHY", "Page", "say_there_is_no_page"]
