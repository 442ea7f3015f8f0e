"""Access rules without authentication: all clients are anonymous, and the rules apply to them."""

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


async def test_access_rule_for_anonymous_clients(client: Client, upstream: Upstream) -> None:
    """Denied with 403 and no challenge, since there is no login."""
    manifest = upstream.publish(image(10), "v1")
    upstream.registry.publish("team/other", manifest, "v1")
    assert (await client.get(upstream.manifest("v1"))).body == manifest.content
    reply = await client.get(f"/v2/{upstream.name}/team/other/manifests/v1")
    assert (reply.status, reply.error["code"]) == (403, "DENIED")
    assert "WWW-Authenticate" not in reply.headers
    for target in ("/v2/", "/metrics", "/readyz", "/healthz"):
        assert (await client.get(target)).status == 200


async def test_login_is_ignored_without_configured_users(client: Client, upstream: Upstream) -> None:
    """No users are configured, so an Authorization header does not change the user."""
    upstream.registry.publish("team/other", image(10), "v1")
    login = {"Authorization": "Basic YWxpY2U6eA=="}
    assert (await client.get(f"/v2/{upstream.name}/team/other/manifests/v1", login)).status == 403
