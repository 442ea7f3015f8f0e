"""A client that verifies the mirror's TLS certificate with a private certificate authority."""

from pathlib import Path

import pytest
import trustme

from tests.real import images
from tests.real.mirror import mirror
from tests.real.registry import Registry
from tests.real.skopeo import Skopeo


@pytest.mark.needs("busybox", "docker-registry", "skopeo")
async def test_skopeo_pulls_over_tls(tmp_path: Path, upstream: Registry) -> None:
    """skopeo verifies the certificate and every digest, cold and warm."""
    image = images.runnable("sealed")
    await upstream.push(image, "team/app", "1")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    authority.cert_pem.write_to_path(str(trusted / "ca.crt"))
    issued.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    (tmp_path / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    files = {name: str(tmp_path / f"tls.{end}") for name, end in (("CERTIFICATE", "crt"), ("KEY", "key"))}
    env = {f"MIRROR_SERVER__{name}_FILE": file for name, file in files.items()}
    async with mirror(tmp_path / "mirror", upstreams={"docker.io": upstream.url}, env=env) as mirrored:
        skopeo = Skopeo(tmp_path / "skopeo")
        for _ in range(2):
            copied = await skopeo.copy(f"{mirrored.host}/team/app:1", certificates=trusted)
            for digest in image.blob_digests():
                assert (copied / digest.partition(":")[2]).is_file()
