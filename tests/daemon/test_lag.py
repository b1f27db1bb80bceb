from __future__ import annotations

from renewer.daemon.lag import WINDOW_S, RecentLag


def test_the_worst_lag_of_the_last_minute_is_told() -> None:
    lag = RecentLag()
    assert lag.worst_s(0.0) == 0.0
    for now, lag_s in ((0.0, 0.2), (1.0, 0.9), (2.0, 0.1), (30.0, 0.4), (31.0, 0.3)):
        lag.observe(lag_s, now)
    assert lag.worst_s(31.0) == 0.9
    assert lag.worst_s(1.0 + WINDOW_S) == 0.9
    assert lag.worst_s(1.1 + WINDOW_S) == 0.4
    assert lag.worst_s(30.5 + WINDOW_S) == 0.3
    assert lag.worst_s(1e6) == 0.0
