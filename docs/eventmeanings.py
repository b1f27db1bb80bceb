"""What each line of the log, each event and each word in them means to whoever runs renewer. Read by `eventlist`."""

from __future__ import annotations

from typing import Final

HEAD: Final = """
# Log lines and events

<!-- Made by `make events` from the code and docs/eventmeanings.py: change those. -->

renewer tells what happens in two ways: lines in its log, for whoever runs it, and events on `GET /v1/events`, in
callbacks and in `renewer events`, for programs. Phrases and types do not change from version to version without a
word in the change log, so alerts and filters can go by them.

## The log

One line for each event, on standard error: JSON where that is no terminal (`log_format`). `event` is the phrase,
`level` one of `debug`, `info`, `warning` and `error`, `timestamp` in UTC, and the rest are the fields below; those in
[brackets] are not on every such line. `info` is what a person would want to know of afterwards, `warning` what to
look at, `error` what costs somebody a lock or needs to be acted upon. `log_level` says from which level on lines are
written; `debug` has a line for every renewal and every poll. No line holds a lock token, a key, a signature, a URL
with a query or a body.

Failures that repeat are said the 1st, 2nd, 4th, 8th time and so on, those in between at `debug`; renewals from the
4th in a row on, because one that is late is what attempts overlap for. Warnings of libraries come as plain lines that
begin with `WARNING`. Lines that cannot be written are dropped and counted in `renewer_log_lines_lost`.
"""

PARTS: Final = {
    "renewer": "Leases and operations",
    "renewer.daemon": "The daemon",
    "renewer.reload": "Configuration",
    "renewer.registry": "What is stored",
    "renewer.servicebus": "Connections to Service Bus",
    "renewer.gateway": "The gateway",
    "renewer.callbacks": "Callbacks",
    "renewer.systemd": "The service manager",
    "renewer.attempts": "Attempts",
    "renewer.supervisor": "The supervisor",
    "renewer.emulator": "The emulator",
    "renewer.emulator.broker": "The emulator's Service Bus",
}
"""Titles by the logger's name, in the order of the document."""

_OURS = "A fault in renewer itself; please report it with the `exception`."

PHRASES: Final = {
    # Leases and operations
    "lease registered": "Somebody wants a lock to be kept; it is stored.",
    "lease restored": "It was known before the daemon was started, and goes on.",
    "lease revised": "Its terms in the configuration were changed.",
    "lease acquired": "The lock is held from now on.",
    "lease reacquired": "It is held again after a loss, in a new epoch: others may have had it in between.",
    "lease not acquired": "The broker refused it or did not answer; it is tried again.",
    "lease renewed": "The lock was renewed with `margin_s` of it left.",
    "lease not renewed": "A renewal failed; the next one follows while there is time.",
    "lease at risk": "Its time is over by our clock and no renewal was confirmed: the owner must stop what it does.",
    "lease recovered": "The broker confirmed in the end that a lease at risk is still held.",
    "lease lost": "The lock is gone, for `reason`. Unless `final` it is acquired again.",
    "lease released": "It was given back, or its message was settled.",
    "lease parked": "It was given back because the daemon stops or drains; the next start holds it again.",
    "lease forgotten": "Its record is gone, `keep_ended` after its end.",
    "operation registered": "Somebody wants an operation to be followed; it is stored.",
    "operation restored": "It was known before the daemon was started, and is followed further.",
    "operation polled": "The service says that it is still running.",
    "operation request failed": "A request failed, which says nothing of the operation; repeated where that is safe.",
    "operation status unknown": "The service used a word that renewer does not know; it is taken to be still running.",
    "operation state changed": "It went on to `state`: a warning where it ended other than well.",
    "operation forgotten": "Its record and its result are gone, `keep_ended` after its end.",
    # The daemon
    "daemon ready": "It takes work. The addresses are where it listens, `event_loop` is asyncio or uvloop.",
    "daemon stopping": "It takes no more work and gives every lease back.",
    "daemon stopped": "The end, in good order.",
    "signal received": "SIGTERM and SIGINT stop it, SIGHUP reads the configuration again.",
    "session held already": "A session of the configuration is held through the API; the next reload tries again.",
    "pool opened": "A pool of next available sessions begins to be filled.",
    "session given back": "Nobody took this session of a pool for its `idle_timeout`.",
    # Configuration
    "configuration reloaded": "It was read again and is in force; the numbers say what changed.",
    "configuration not reloaded": "It was not; everything is as before. The lines before say why.",
    "configuration mistake": "One mistake: where, what it is, and what would be right.",
    "setting changed": "A new value is used from now on.",
    "setting needs a restart": "A new value is used only once the daemon is started anew.",
    # What is stored
    "registry restored": "So much was known before the start, and goes on.",
    "registry damaged": "The file was damaged: it was set aside, and what could be read went into a new one.",
    "registry not written": "It cannot be written (a full disk?): what is held is kept, new work is refused.",
    "registry written again": "It can be written again, and new work is taken.",
    "registry slow": "Writing takes so long that news are told before they are stored.",
    "record not stored": "One record cannot be stored as it is; the others are.",
    "record not read": "One stored record cannot be read, and is left out.",
    # Connections to Service Bus
    "could not connect": "No connection to a namespace; it is tried again.",
    "throttled": "The namespace is asked for too much; newcomers are held back for a while.",
    "token not refreshed": "The old token still counts for `ends_in_s`; it is tried again until then.",
    "shared access signature ended": "What is reached with it is lost; see `remedy`.",
    "shared access signature ends soon": "It cannot be renewed by renewer; see `remedy`.",
    "amqp session ended for its links": "The broker took all that was held in an AMQP session, for one link "
    "more. From now on none has more than `links_per_session`; see `remedy`.",
    "lock duration uncertain": "Two clocks differ, so a short lock is assumed; see `remedy`.",
    "reply dropped": "The broker answered something that nobody asked.",
    "reply not readable": "The broker's answer to a request is not well-formed, see `error`, and was dropped: "
    "renewals over this connection may fail until it writes others. Please report it with the name of the broker.",
    "a connection failed": _OURS + " The connection is made anew.",
    "renewals raised an unexpected error": _OURS + " The renewals are tried again.",
    "renewal raised an unexpected error": _OURS + " The renewal is tried again.",
    "answers for locks were not taken in": _OURS + " The next renewals of those locks are tried as usual.",
    # The gateway
    "gateway listening": "Workers can connect to it.",
    "worker let in": "A worker connected and showed that it may.",
    "worker gone": "A worker's connection is closed; `messages` were passed to it.",
    "worker refused": "A connection was not let in, for `why`; `count` so far for this.",
    "upstream failed": "A worker's connection to the broker could not be made or broke; `count` so far.",
    "locks cannot be renewed": "The broker lets renewer do nothing beside this worker, whose locks are not kept.",
    "too many messages to keep their locks": "A worker has fetched more ahead than renewer looks after; see `remedy`.",
    "broker broke the protocol beside a worker": "The session beside the worker's was ended, and is begun anew.",
    "work beside a worker failed": _OURS + " One request is not done.",
    "the gateway's leases could not be looked after": _OURS + " It is tried again at once.",
    "a token could not be had": _OURS + " The worker is told that the broker cannot be reached.",
    "an upstream connection failed": _OURS + " The worker is told that the broker cannot be reached.",
    "a worker connection failed": _OURS + " That worker's connection is closed, and no other.",
    # Callbacks
    "callback delivered": "The receiver acknowledged it.",
    "callback not delivered": "The receiver did not acknowledge it; it is repeated.",
    "callback given up": "It was repeated for `give_up`, or the receiver wants no more (410).",
    "callback unreadable": "A stored callback cannot be read, and is dropped.",
    # The service manager
    "service manager not told": "A message to systemd could not be sent.",
    "watchdog ping withheld": "The daemon cannot serve; systemd starts it anew if that lasts.",
    "watchdog pinged again": "It can serve again.",
    # Attempts, supervisor
    "attempt raised an unexpected error": _OURS + " The attempt is repeated.",
    "grants were not taken in": _OURS + " The next renewals of those locks are tried as usual.",
    "an event was not taken in": _OURS + " What came with it was.",
    "release raised an unexpected error": _OURS + " The lock may last until it expires.",
    "lease release not confirmed": "The lock was given back, but may last until it expires.",
    "hook raised an unexpected error": _OURS + " One piece of news was not passed on everywhere.",
    # The emulator
    "emulator ready": "It listens on these addresses.",
    "emulator stopped": "The end.",
    "broker listens": "Its Service Bus listens.",
    "no websocket": "A connection did not become a WebSocket.",
    "session lock expired": "A session was not renewed in time, and is free.",
    "connection failed": "A fault in the emulator; please report it with the `trace`.",
}

STREAM_HEAD: Final = """
## Events

`GET /v1/events` streams them, `renewer events` shows them, and callbacks tell them as CloudEvents. Each has `id`
(`GENERATION-NUMBER`; the generation counts the starts of the daemon), `type`, `time`, `subject` (the id of the lease
or the operation) and `data`: `labels` and `state` always, and what the table says, in [brackets] where it is not
always there. Types that are not replayed are many and soon stale: they are told only to those who name them, and have
no `id`. The stream of one lease (`GET /v1/leases/{id}/events`) begins with a further event `snapshot`: the lease
itself.
"""

EVENTS: Final = {
    "lease.registered": "It is stored, and will be acquired.",
    "lease.restored": "It goes on after a start of the daemon.",
    "lease.revised": "Its terms were changed by the configuration.",
    "lease.acquired": "It is held: begin to work.",
    "lease.reacquired": "It is held again, in a new epoch: read anew what may have changed in between.",
    "lease.acquire_failed": "An attempt failed, and is repeated.",
    "lease.renewed": "It was renewed.",
    "lease.renew_failed": "An attempt failed, and is repeated.",
    "lease.at_risk": "Stop side effects: nobody knows whether it is still held.",
    "lease.recovered": "It was held all along: go on.",
    "lease.lost": "It is not held any longer: stop. Unless `final` it is acquired again.",
    "lease.released": "The end that was asked for.",
    "lease.parked": "Given back while the daemon stops or drains.",
    "lease.forgotten": "Its record is gone.",
    "operation.registered": "It is stored, and is followed.",
    "operation.restored": "It is followed further after a start of the daemon.",
    "operation.polled": "The service was asked, and it is still running.",
    "operation.poll_failed": "A request failed, which says nothing of the operation.",
    "operation.unknown_status": "The service used a word that renewer does not know.",
    "operation.running": "The service took it on.",
    "operation.fetching": "The service is done, and the result is on its way.",
    "operation.succeeded": "It succeeded; `result` says what there is to read.",
    "operation.failed": "The service says that it failed; `error` is its own account.",
    "operation.canceled": "The service says that it was cancelled.",
    "operation.expired": "The service does not know it any longer.",
    "operation.timed_out": "Its own deadline passed; it may still be running.",
    "operation.unpollable": "The service does not tell how it stands; it may still be running.",
    "operation.rejected": "It was not taken on, or nobody knows whether it was: `error` says which.",
    "operation.forgotten": "Its record and its result are gone.",
    "stream.gap": "Events are missing here: look at the leases and operations themselves. `reason` is `too_old`, "
    "`too_slow` or `unknown`.",
}

FIELDS_HEAD: Final = "### What the data mean"

FIELDS: Final = {
    "account": "The account that the operation is followed on, such as `fabric.main`.",
    "detail": "For people: what happened, in the words of whoever said so.",
    "entity": "The queue or subscription.",
    "epoch": "Counts within the lease, from 1; a new one after each loss.",
    "error": "The service's own document about the end, cut where it is very long; null where there is none.",
    "failure": "Why an attempt failed, one of the words below; where a lock was refused it may be a reason.",
    "failures": "How many attempts in a row failed.",
    "final": "Whether it is not acquired again.",
    "kind": "`session` or `message`.",
    "labels": "Whoever registered it gave it these.",
    "locked_until_utc": "Until when it is locked by the broker's clock; for people.",
    "margin_s": "How much of the lock was left when the renewal was confirmed, in seconds.",
    "reason": "Why it was lost, one of the words below.",
    "remaining_s": "How much of the lock was left when this happened, in seconds.",
    "result": "Kind, size and place of the result; null while there is none.",
    "servicebus": "The section `[servicebus.NAME]` that it is on.",
    "session_id": "The session; null for a message.",
    "settled": "What became of the message, where that ended the lease.",
    "state": "The state afterwards.",
    "status": "The service's own word for how it stands.",
}

REASONS_HEAD: Final = "### Why a lease is lost"

REASONS: Final = {
    "expired": "The broker says so, or it was silent for one whole further lock.",
    "detached": "The broker took the session away: its link was detached.",
    "connection_lost": "The connection broke, or the daemon was killed; sessions go with their connection.",
    "unauthorized": "The credential is not, or no longer, good for it.",
    "refused": "The broker does not allow it.",
    "superseded": "Somebody else has it.",
    "max_duration": "`max_duration` is over: renewer let it go.",
    "owner_gone": "Its owner ended or gave no sign of life: renewer let it go.",
    "entity_gone": "The queue or subscription is not there any longer.",
}

FAILURES_HEAD: Final = "### Why an attempt fails"

FAILURES: Final = {
    "busy": "The remote is busy, or somebody else has the lock.",
    "timeout": "No answer in time.",
    "network": "The connection broke.",
    "unreachable": "No connection could be made, so nothing was sent.",
    "server": "A fault of the remote.",
    "throttled": "The remote is asked for too much.",
    "unauthorized": "The credential is not good for it.",
    "no_token": "No token could be had, so nothing was sent.",
    "not_found": "The remote does not know it.",
    "refused": "The remote says that the request is wrong, which says nothing of what it was about.",
    "storage": "Our own disk could not take the answer.",
    "garbage": "The answer could not be read.",
    "empty": "No session is free.",
    "overdue": "The answer is late; the next attempt begins, and this one still counts if it comes.",
}
