"""Rules where nobody is asked for a name: all are anonymous, and the rules hold for them."""

import pytest

from tests.fake.content import image
from tests.http.client import Client
from tests.http.upstreams import CALM, Upstream

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = f"""
[[access]]
users = ["alice"]
allow = true
[[access]]
users = ["anonymous"]
repositories = ["*/team/app"]
allow = true
{CALM}
"""


async def test_rules_can_name_those_who_have_no_name(client: Client, upstream: Upstream) -> None:
    """403 without a challenge: there is nothing to log in to."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.publish("team/other", manifest, "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    reply = await client.get(f"/v2/{upstream.name}/team/other/manifests/v1")
    assert (reply.status, reply.error["code"]) == (403, "DENIED")
    assert "WWW-Authenticate" not in reply.headers
    for target in ("/v2/", "/metrics", "/readyz", "/healthz"):
        assert (await client.get(target)).status == 200


async def test_a_login_that_nobody_asked_for_makes_nobody_a_user(client: Client, upstream: Upstream) -> None:
    """There are no users here to be one of."""
    upstream.registry.publish("team/other", image(10), "v1")
    login = {"Authorization": "Basic YWxpY2U6eA=="}
    assert (await client.get(f"/v2/{upstream.name}/team/other/manifests/v1", login)).status == 403
