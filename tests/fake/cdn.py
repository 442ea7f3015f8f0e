"""Object storage behind a registry: presigned URLs that are valid only in their exact spelling."""

from itertools import count

from tests.fake.answers import Answer
from tests.fake.journal import Seen
from tests.fake.origin import Origin, problem


class Cdn(Origin):
    """Serves presigned objects; refuses an Authorization header beside the signature, as S3 does."""

    def __init__(self) -> None:
        super().__init__()
        self.heads_allowed = False  # a URL presigned for GET is invalid for HEAD
        self.single_use = False  # whether a URL is valid for one response only
        self._objects: dict[str, tuple[bytes, str]] = {}  # raw target -> content and media type
        self._serial = count(1)

    def presign(self, content: bytes, media_type: str = "application/octet-stream") -> str:
        """Return a new URL for *content*, with a query in which no byte may be spelled differently."""
        serial = next(self._serial)
        target = (
            f"/store/blobs/sha256/aa%2Fbb/data;v={serial}?X-Cred=AKIA%2F2026%2fus-east-1&name=a+b%20c%3Dd=="
            f"&sig=Zm9v%2Bbar%2F{serial}/+~!*'()%3d%3D&empty=&flag&tail=%E2%82%AC"
        )
        self._objects[target] = (content, media_type)
        return self.url + target

    def expire(self) -> None:
        """Refuse all URLs issued so far."""
        self._objects.clear()

    async def respond(self, seen: Seen, body: bytes) -> Answer:
        if "Authorization" in seen.headers:
            return problem(400, "InvalidArgument", "Only one auth mechanism allowed")
        if seen.target not in self._objects or (seen.method == "HEAD" and not self.heads_allowed):
            return problem(403, "SignatureDoesNotMatch", "not as it was signed")
        content, media_type = self._objects[seen.target]
        if self.single_use:
            del self._objects[seen.target]
        answer = Answer.whole(content, Content_Type=media_type, Accept_Ranges="bytes")
        answer.ranged(seen.range)
        return answer
