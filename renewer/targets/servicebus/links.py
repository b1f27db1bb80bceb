"""Who lives on which link of one connection, and is told what happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from renewer.amqp import CreditChanged, DeliveryReceived, DeliveryUpdated, LinkAttached, LinkDetached

if TYPE_CHECKING:
    from renewer.amqp import AmqpError, Attach, Delivery, DeliveryState, Link
    from renewer.targets.servicebus.channels import Channel


class LinkOwner(Protocol):
    """Who is told what happens to a link."""

    def on_attached(self, remote: Attach) -> None:
        """The broker attached its end."""

    def on_detached(self, error: AmqpError | None, *, by_us: bool) -> None:
        """The link is gone."""

    def on_credit(self) -> None:
        """A sender's credit changed."""

    def on_delivery(self, delivery: Delivery) -> None:
        """A message arrived."""

    def on_updated(self, delivery: Delivery, state: DeliveryState | None, *, settled: bool) -> None:
        """The broker said what became of a message of ours."""


class Links:
    """The links of one connection that have an owner. What happens to others concerns nobody."""

    def __init__(self) -> None:
        self._owners: dict[Link, tuple[LinkOwner, Channel]] = {}
        self._fallen: list[LinkDetached] = []

    def own(self, link: Link, owner: LinkOwner, channel: Channel) -> None:
        """Tell `owner` about the link; its handle on `channel` is given back when it is gone."""
        self._owners[link] = (owner, channel)

    def on_event(
        self,
        event: DeliveryReceived | DeliveryUpdated | CreditChanged | LinkAttached | LinkDetached,
        *,
        is_over: bool,
    ) -> None:
        """Tell whom it concerns; with `is_over`, that a link is gone is told by `close`, when it is known why."""
        match event:
            case DeliveryReceived(link, delivery):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_delivery(delivery)
            case DeliveryUpdated(link, delivery, state, settled):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_updated(delivery, state, settled=settled)
            case CreditChanged(link):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[0].on_credit()
            case LinkAttached(link, remote):
                owner = self._owners.get(link)
                if owner is not None:
                    owner[1].on_attached(link)
                    owner[0].on_attached(remote)
            case LinkDetached():
                if is_over:
                    self._fallen.append(event)
                else:
                    self._gone(event)

    def close(self) -> None:
        """The connection is over, and all of its links are gone."""
        for event in self._fallen:
            self._gone(event)
        self._fallen.clear()
        for link, (owner, _) in list(self._owners.items()):
            del self._owners[link]
            owner.on_detached(None, by_us=False)

    def _gone(self, event: LinkDetached) -> None:
        owner = self._owners.pop(event.link, None)
        if owner is not None:
            owner[1].on_gone(event.link, None if event.by_us else event.error)
            owner[0].on_detached(event.error, by_us=event.by_us)
