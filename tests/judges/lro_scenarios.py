"""What the public test servers play, and how each of it must end.

The table says what the servers' own sources send and what the official clients make of it (AutoRest's `test_lro.py`,
the scenario descriptions of azure-http-specs). Where we deliberately end differently, `ours` says how and `why` says
why; everywhere else we have to agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

State = Literal["succeeded", "failed", "canceled", "rejected", "error"]
"""How it ends; `error` where the official clients give up although the service did not say that it failed."""

NOTHING = None
"""No result."""

_CLIENT_REQUEST_ID = {"x-ms-client-request-id": "9C4D50EE-2D56-4CD3-8152-34347DC9F2B0"}
_API_2022 = {"api-version": "2022-12-01-preview"}
_API_2023 = {"api-version": "2023-12-01-preview"}
_SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-000000000000"
_TEMPLATES = "providers/Azure.ResourceManager.OperationTemplates"

_DONE = {"provisioningState": "Succeeded"}
_FOO = {"id": "100", "name": "foo"}
_FOO_DONE = {"properties": _DONE, **_FOO}
_SKU = {"name": "sku", "id": "100"}
_SUB = {"properties": _DONE, "id": "100", "subresource": "sub1"}
_PAGE = {"values": [{"properties": {"id": 1, "name": "Product"}}]}
_SAID = {"status": "Succeeded"}
_NOTHING_OR_LAST_WORD = (NOTHING, _SAID)
"""There is nothing to fetch; the clients have no model for the monitor's last word, and drop it."""

_UNREADABLE = "what cannot be read is a failed poll, not a failed operation: asked again until its own deadline"
_REFUSED = "a 4xx to a poll says nothing of the operation (ARM async contract): it cannot be followed, no more"
_SAYS_SO = "a resource that says that its deletion failed was not deleted, whatever status code that comes with"
_GONE = "a relative URL is one of the same host (RFC 9110 10.2.2); what is not there has expired"


@dataclass(frozen=True)
class Scenario:
    """One operation: its first request, how it is to be followed, and its end.

    `result` lists the results that are right, `error` is what the service says of a failure. `ours` is our own state
    where it differs.
    """

    name: str
    method: str
    path: str
    state: State = "succeeded"
    result: tuple[object, ...] = (NOTHING,)
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = None
    final_state_via: str | None = None
    poll_query: Mapping[str, str] = field(default_factory=dict)
    poll_headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, object] | None = None
    ours: str | None = None
    why: str = ""

    @property
    def ends(self) -> str:
        """The state that we have to see."""
        return self.ours or self.state

    @property
    def retry_safe_headers(self) -> dict[str, str]:
        """The headers of the first request; one that must not be sent twice as it is gets an id, so that it may."""
        if self.method in {"POST", "PATCH"}:
            return {"Operation-Id": f"judged-{self.name}", **self.headers}
        return dict(self.headers)

    @property
    def terms(self) -> dict[str, object]:
        """What is said beside the first request."""
        terms = {
            "final_state_via": self.final_state_via,
            "poll_query": dict(self.poll_query),
            "poll_headers": dict(self.poll_headers),
        }
        return {name: value for name, value in terms.items() if value}


def _happy(
    name: str, method: str, path: str, *result: object, via: str | None = None, last_word: bool = False
) -> Scenario:
    ends = _NOTHING_OR_LAST_WORD if last_word else result or (NOTHING,)
    return Scenario(f"LROs_{name}", method, f"/lro/{path}", result=ends, final_state_via=via)


def _ended(name: str, method: str, path: str, state: State, error: Mapping[str, object] | None = None) -> Scenario:
    return Scenario(f"LROs_{name}", method, f"/lro/{path}", state, error=error)


def _retried(name: str, method: str, path: str, *result: object, last_word: bool = False) -> Scenario:
    ends = _NOTHING_OR_LAST_WORD if last_word else result
    return Scenario(f"LRORetrys_{name}", method, f"/lro/retryerror/{path}", result=ends)


def _refused(name: str, method: str, path: str) -> Scenario:
    return Scenario(f"LROSADs_{name}", method, f"/lro/nonretryerror/{path}", "rejected")


def _sad(name: str, method: str, path: str, ours: str, why: str) -> Scenario:
    return Scenario(f"LROSADs_{name}", method, f"/lro/{path}", "error", ours=ours, why=why)


def _custom(name: str, method: str, path: str, *result: object) -> Scenario:
    return Scenario(
        f"LROsCustomHeader_{name}",
        method,
        f"/lro/customheader/{path}",
        result=result,
        headers=_CLIENT_REQUEST_ID,
        poll_headers=_CLIENT_REQUEST_ID,
    )


CLASSIC_SCENARIOS = (
    # Done, or not, with the first answer.
    _happy("put200Succeeded", "PUT", "put/200/succeeded", _FOO_DONE),
    _happy("put201Succeeded", "PUT", "put/201/succeeded", _FOO_DONE),
    _happy("put200SucceededNoState", "PUT", "put/200/succeeded/nostate", _FOO),
    _happy("patch200SucceededIgnoreHeaders", "PATCH", "patch/200/succeeded/ignoreheaders", _FOO_DONE),
    _happy("delete204Succeeded", "DELETE", "delete/204/succeeded"),
    # The resource's own provisioningState.
    _happy("put201CreatingSucceeded200", "PUT", "put/201/creating/succeeded/200", _FOO_DONE),
    _happy("put200UpdatingSucceeded204", "PUT", "put/200/updating/succeeded/200", _FOO_DONE),
    _ended("put201CreatingFailed200", "PUT", "put/201/created/failed/200", "failed"),
    _ended("put200Acceptedcanceled200", "PUT", "put/200/accepted/canceled/200", "canceled"),
    # Location.
    _happy("put202Retry200", "PUT", "put/202/retry/200", _FOO),
    _happy("putNoHeaderInRetry", "PUT", "put/noheader/202/200", _FOO_DONE),
    _happy("putNonResource", "PUT", "putnonresource/202/200", _SKU),
    _happy("putSubResource", "PUT", "putsubresource/202/200", _SUB),
    _happy(
        "deleteProvisioning202Accepted200Succeeded",
        "DELETE",
        "delete/provisioning/202/accepted/200/succeeded",
        _FOO_DONE,
    ),
    # The clients for Python, JavaScript and .NET take the 200 for a success; those for Swift and Go failed here.
    replace(
        _happy(
            "deleteProvisioning202DeletingFailed200",
            "DELETE",
            "delete/provisioning/202/deleting/200/failed",
            {"properties": {"provisioningState": "Failed"}, **_FOO},
        ),
        ours="failed",
        why=_SAYS_SO,
    ),
    replace(
        _happy(
            "deleteProvisioning202Deletingcanceled200",
            "DELETE",
            "delete/provisioning/202/deleting/200/canceled",
            {"properties": {"provisioningState": "Canceled"}, **_FOO},
        ),
        ours="canceled",
        why=_SAYS_SO,
    ),
    _happy("delete202Retry200", "DELETE", "delete/202/retry/200"),
    _happy("delete202NoRetry204", "DELETE", "delete/202/noretry/204"),
    _happy("deleteNoHeaderInRetry", "DELETE", "delete/noheader"),
    _happy("post200WithPayload", "POST", "post/payload/200", {"id": "1", "name": "product"}),
    _happy("post202Retry200", "POST", "post/202/retry/200", _FOO_DONE),
    _happy("post202NoRetry204", "POST", "post/202/noretry/204"),
    # Azure-AsyncOperation.
    _happy(
        "patch201RetryWithAsyncHeader",
        "PATCH",
        "patch/201/retry/onlyAsyncHeader",
        {"properties": _DONE, "id": "/lro/patch/201/retry/onlyAsyncHeader", "name": "foo"},
    ),
    _happy(
        "patch202RetryWithAsyncAndLocationHeader",
        "PATCH",
        "patch/202/retry/asyncAndLocationHeader",
        {"properties": _DONE, "id": "/lro/patch/202/retry/asyncAndLocationHeader", "name": "foo"},
    ),
    _happy("putAsyncRetrySucceeded", "PUT", "putasync/retry/succeeded", _FOO_DONE),
    _happy("putAsyncNoRetrySucceeded", "PUT", "putasync/noretry/succeeded", _FOO_DONE),
    _ended("putAsyncRetryFailed", "PUT", "putasync/retry/failed", "failed"),
    _ended("putAsyncNoRetrycanceled", "PUT", "putasync/noretry/canceled", "canceled"),
    _happy("putAsyncNoHeaderInRetry", "PUT", "putasync/noheader/201/200", _FOO_DONE),
    _happy("putAsyncNonResource", "PUT", "putnonresourceasync/202/200", _SKU),
    _happy("putAsyncSubResource", "PUT", "putsubresourceasync/202/200", _SUB),
    _happy("deleteAsyncNoHeaderInRetry", "DELETE", "deleteasync/noheader/202/204", last_word=True),
    _happy("deleteAsyncRetrySucceeded", "DELETE", "deleteasync/retry/succeeded", last_word=True),
    _happy("deleteAsyncNoRetrySucceeded", "DELETE", "deleteasync/noretry/succeeded", last_word=True),
    _ended("deleteAsyncRetryFailed", "DELETE", "deleteasync/retry/failed", "failed"),
    _ended("deleteAsyncRetrycanceled", "DELETE", "deleteasync/retry/canceled", "canceled"),
    _happy("post202List", "POST", "list", [_FOO]),
    _happy("postDoubleHeadersFinalLocationGet", "POST", "LROPostDoubleHeadersFinalLocationGet", _FOO, via="location"),
    _happy(
        "postDoubleHeadersFinalAzureHeaderGet",
        "POST",
        "LROPostDoubleHeadersFinalAzureHeaderGet",
        {"status": "succeeded", "id": "100"},
        via="azure-async-operation",
    ),
    _happy(
        "postDoubleHeadersFinalAzureHeaderGetDefault", "POST", "LROPostDoubleHeadersFinalAzureHeaderGetDefault", _FOO
    ),
    _happy("postAsyncRetrySucceeded", "POST", "postasync/retry/succeeded", _FOO_DONE),
    _happy("postAsyncNoRetrySucceeded", "POST", "postasync/noretry/succeeded", _FOO_DONE),
    _ended(
        "postAsyncRetryFailed",
        "POST",
        "postasync/retry/failed",
        "failed",
        {"code": 500, "message": "Internal Server Error"},
    ),
    _ended("postAsyncRetrycanceled", "POST", "postasync/retry/canceled", "canceled"),
    # Every request is answered with a 500 first.
    _retried("put201CreatingSucceeded200", "PUT", "put/201/creating/succeeded/200", _FOO_DONE),
    _retried("putAsyncRelativeRetrySucceeded", "PUT", "putasync/retry/succeeded", _FOO_DONE),
    _retried(
        "deleteProvisioning202Accepted200Succeeded",
        "DELETE",
        "delete/provisioning/202/accepted/200/succeeded",
        _FOO_DONE,
    ),
    _retried("delete202Retry200", "DELETE", "delete/202/retry/200", _FOO_DONE),
    _retried("deleteAsyncRelativeRetrySucceeded", "DELETE", "deleteasync/retry/succeeded", last_word=True),
    _retried("post202Retry200", "POST", "post/202/retry/200", _FOO_DONE),
    _retried("postAsyncRelativeRetrySucceeded", "POST", "postasync/retry/succeeded", _SKU),
    # The first request is refused.
    _refused("putNonRetry400", "PUT", "put/400"),
    _refused("deleteNonRetry400", "DELETE", "delete/400"),
    _refused("postNonRetry400", "POST", "post/400"),
    # Polls are refused.
    _sad("putNonRetry201Creating400", "PUT", "nonretryerror/put/201/creating/400", "unpollable", _REFUSED),
    _sad(
        "putNonRetry201Creating400InvalidJson",
        "PUT",
        "nonretryerror/put/201/creating/400/invalidjson",
        "unpollable",
        _REFUSED,
    ),
    _sad("putAsyncRelativeRetry400", "PUT", "nonretryerror/putasync/retry/400", "unpollable", _REFUSED),
    _sad("delete202NonRetry400", "DELETE", "nonretryerror/delete/202/retry/400", "unpollable", _REFUSED),
    _sad("deleteAsyncRelativeRetry400", "DELETE", "nonretryerror/deleteasync/retry/400", "unpollable", _REFUSED),
    _sad("post202NonRetry400", "POST", "nonretryerror/post/202/retry/400", "unpollable", _REFUSED),
    _sad("postAsyncRelativeRetry400", "POST", "nonretryerror/postasync/retry/400", "unpollable", _REFUSED),
    # Answers that keep to no protocol.
    _sad(
        "putError201NoProvisioningStatePayload",
        "PUT",
        "error/put/201/noprovisioningstatepayload",
        "timed_out",
        _UNREADABLE,
    ),
    _sad("putAsyncRelativeRetryNoStatus", "PUT", "error/putasync/retry/nostatus", "timed_out", _UNREADABLE),
    _sad(
        "putAsyncRelativeRetryNoStatusPayload", "PUT", "error/putasync/retry/nostatuspayload", "timed_out", _UNREADABLE
    ),
    _sad("put200InvalidJson", "PUT", "error/put/200/invalidjson", "timed_out", _UNREADABLE),
    _sad("putAsyncRelativeRetryInvalidHeader", "PUT", "error/putasync/retry/invalidheader", "expired", _GONE),
    _sad(
        "putAsyncRelativeRetryInvalidJsonPolling",
        "PUT",
        "error/putasync/retry/invalidjsonpolling",
        "timed_out",
        _UNREADABLE,
    ),
    Scenario("LROSADs_delete204Succeeded", "DELETE", "/lro/error/delete/204/nolocation"),
    _sad("deleteAsyncRelativeRetryNoStatus", "DELETE", "error/deleteasync/retry/nostatus", "timed_out", _UNREADABLE),
    _sad("delete202RetryInvalidHeader", "DELETE", "error/delete/202/retry/invalidheader", "expired", _GONE),
    _sad("deleteAsyncRelativeRetryInvalidHeader", "DELETE", "error/deleteasync/retry/invalidheader", "expired", _GONE),
    _sad(
        "deleteAsyncRelativeRetryInvalidJsonPolling",
        "DELETE",
        "error/deleteasync/retry/invalidjsonpolling",
        "timed_out",
        _UNREADABLE,
    ),
    _sad("post202NoLocation", "POST", "error/post/202/nolocation", "unpollable", "a 202 that names no place to ask at"),
    _sad("post202RetryInvalidHeader", "POST", "error/post/202/retry/invalidheader", "expired", _GONE),
    _sad("postAsyncRelativeRetryNoPayload", "POST", "error/postasync/retry/nopayload", "timed_out", _UNREADABLE),
    _sad("postAsyncRelativeRetryInvalidHeader", "POST", "error/postasync/retry/invalidheader", "expired", _GONE),
    _sad(
        "postAsyncRelativeRetryInvalidJsonPolling",
        "POST",
        "error/postasync/retry/invalidjsonpolling",
        "timed_out",
        _UNREADABLE,
    ),
    # A header that every request must carry.
    _custom("putAsyncRetrySucceeded", "PUT", "putasync/retry/succeeded", _FOO_DONE),
    _custom("put201CreatingSucceeded200", "PUT", "put/201/creating/succeeded/200", _FOO_DONE),
    _custom("post202Retry200", "POST", "post/202/retry/200", NOTHING),
    _custom("postAsyncRetrySucceeded", "POST", "postasync/retry/succeeded", *_NOTHING_OR_LAST_WORD),
    # Locations without a host.
    Scenario(
        "pollWithParameterizedEndpoints",
        "POST",
        "/lroParameterizedEndpoints",
        result=("success",),
        final_state_via="location",
    ),
    Scenario(
        "pollWithConstantParameterizedEndpoints",
        "POST",
        "/lroConstantParameterizedEndpoints/iAmConstant",
        result=("success",),
    ),
    # Elsewhere on that server. `nextLink` names its port, so pages are compared without it.
    Scenario("Paging_getMultiplePagesLRO", "POST", "/paging/multiple/lro", result=(_PAGE,)),
    Scenario("MultiapiServiceClient_testLro", "PUT", "/multiapi/lro", result=({"id": "100"},)),
    Scenario(
        "MultiapiServiceClient_testLroAndPaging",
        "POST",
        "/multiapi/lroAndPaging",
        result=({"values": [{"id": "100"}]},),
    ),
)

_ORDER = {
    "id": f"{_SUBSCRIPTION}/resourceGroups/test-rg/{_TEMPLATES}/orders/order1",
    "name": "order1",
    "type": "Azure.ResourceManager.Resources/orders",
    "location": "eastus",
    "properties": {"provisioningState": "Succeeded", "productId": "product1", "amount": 1},
    "systemData": {
        "createdBy": "AzureSDK",
        "createdByType": "User",
        "createdAt": "2024-10-04T00:56:07.442Z",
        "lastModifiedBy": "AzureSDK",
        "lastModifiedAt": "2024-10-04T00:56:07.442Z",
        "lastModifiedByType": "User",
    },
}

_MADGE = {"name": "madge", "role": "contributor"}
_MADGE_EXPORTED = {"name": "madge", "resourceUri": "/users/madge"}


def _core(name: str, method: str, path: str, *result: object, body: object = None, **query: str) -> Scenario:
    return Scenario(
        f"Azure_Core_Lro_{name}",
        method,
        f"/azure/core/lro/{path}",
        result=result,
        query={**_API_2022, **query},
        body=body,
        poll_query=_API_2022,
    )


def _arm(name: str, method: str, path: str, *result: object, body: object = None, via: str | None = None) -> Scenario:
    return Scenario(
        f"Azure_ResourceManager_{name}",
        method,
        f"{_SUBSCRIPTION}/{path}",
        result=result,
        query=_API_2023,
        body=body,
        final_state_via=via,
        poll_query=_API_2023,
    )


SPECTOR_SCENARIOS = (
    # The result of an action is the monitor's `result`; the monitor's last word holds it.
    _core(
        "Rpc_longRunningRpc",
        "POST",
        "rpc/generations:submit",
        {"data": "text data"},
        {"id": "operation1", "status": "Succeeded", "result": {"data": "text data"}},
        body={"prompt": "text"},
    ),
    _core("Standard_createOrReplace", "PUT", "standard/users/madge", _MADGE, body={"role": "contributor"}),
    _core("Standard_delete", "DELETE", "standard/users/madge", NOTHING, {"id": "operation2", "status": "Succeeded"}),
    _core(
        "Standard_export",
        "POST",
        "standard/users/madge:export",
        _MADGE_EXPORTED,
        {"id": "operation3", "status": "Succeeded", "result": _MADGE_EXPORTED},
        format="json",
    ),
    _arm(
        "OperationTemplates_Lro_createOrReplace",
        "PUT",
        f"resourceGroups/test-rg/{_TEMPLATES}/orders/order1",
        _ORDER,
        body={"location": "eastus", "properties": {"productId": "product1", "amount": 1}},
    ),
    _arm(
        "OperationTemplates_Lro_export",
        "POST",
        f"resourceGroups/test-rg/{_TEMPLATES}/orders/order1/export",
        {"content": "order1,product1,1"},
        body={"format": "csv"},
        via="location",
    ),
    _arm("OperationTemplates_Lro_delete", "DELETE", f"resourceGroups/test-rg/{_TEMPLATES}/orders/order1", NOTHING),
    _arm(
        "OperationTemplates_Lro_exportArray",
        "POST",
        f"{_TEMPLATES}/exportArray",
        [{"content": "order1,product1,1"}, {"content": "order2,product2,2"}],
        body={"format": "csv"},
        via="location",
    ),
    _arm(
        "OperationTemplates_LroPaging_postPagingLro",
        "POST",
        f"resourceGroups/test-rg/{_TEMPLATES}/products/default/postPagingLro",
        {
            "value": [
                {
                    "id": f"{_SUBSCRIPTION}/resourceGroups/test-rg/{_TEMPLATES}/products/product1",
                    "name": "product1",
                    "type": "Azure.ResourceManager.OperationTemplates/products",
                    "location": "eastus",
                    "properties": {"provisioningState": "Succeeded", "productId": "product1"},
                }
            ]
        },
    ),
    # URLs of six kilobytes.
    _arm(
        "LargeHeader_LargeHeaders_two6k",
        "POST",
        "resourceGroups/test-rg/providers/Azure.ResourceManager.LargeHeader/largeHeaders/header1/two6k",
        {"succeeded": True},
        via="location",
    ),
)
