"""What production has written comes back from the backup server after its data is gone."""

from __future__ import annotations

import json
import secrets

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360000002000001e221bc330000000049454e44ae426082"
)


def donor(production, name: str) -> None:
    """Register a donor."""
    body = {"name": name, "email": f"{name.lower().replace(' ', '.')}@example.org", "blood_group": "O-"}
    answer = production.get("donors", json.dumps(body).encode())
    assert answer.status == 201, answer.body


def upload(production) -> str:
    """Upload a document and return its path."""
    boundary = "gantry-boundary"
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    )
    body = head.encode() + PNG + f"\r\n--{boundary}--\r\n".encode()
    answer = production.get("documents", body, f"multipart/form-data; boundary={boundary}")
    assert answer.status == 201, answer.body
    return f"documents/{json.loads(answer.body)['id']}"


def test_production_has_a_cron_entry_and_staging_has_none(production, staging):
    cron = production.on_host("sh", "-c", "cat /etc/cron.d/gantry-backup-*")
    assert "backup dblood-production" in cron
    assert staging.on_host("sh", "-c", "ls /etc/cron.d") == production.on_host("sh", "-c", "ls /etc/cron.d").replace(
        "gantry-backup-dblood-production\n", ""
    )


def test_lost_data_comes_back(production):
    kept, lost = f"Ada {secrets.token_hex(4)}", f"Later {secrets.token_hex(4)}"
    donor(production, kept)
    document = upload(production)
    assert production.play("playbooks/backup.yml").code == 0
    donor(production, lost)

    data = "/var/lib/gantry/dblood-production/data"
    production.on_host("sh", "-c", f"rm -rf {data}/*")
    unasked = production.play("playbooks/restore.yml")
    assert unasked.code != 0
    assert "backup_restore_confirmed=true" in unasked.words

    done = production.play("playbooks/restore.yml", "-e", "backup_restore_confirmed=true")
    assert done.code == 0
    names = production.get("donors?per_page=100").body
    assert kept in names
    assert lost not in names
    assert production.get(document).content == PNG
    donor(production, f"After {secrets.token_hex(4)}")
