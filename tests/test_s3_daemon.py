"""Homes and folders in a store, as clients see them: docs/storage.md has a row for each difference from a disk."""

from __future__ import annotations

import ftplib
import hashlib
import re
import ssl
import time
import zlib
from pathlib import Path

import pytest

from tests.daemon import Daemon, one_process
from tests.ftpclient import FtpClient, secured, tls_context
from tests.hostile import cut, open_transfer, withstands
from tests.outbox import JournalNow, settings, with_state
from tests.s3 import Bucket, S3Server
from tests.s3_proxy import Answer, FaultyProxy, Hang
from tests.store_daemon import HOME, LARGE, MIB, Make, store_daemon
from tests.test_curl import curl
from tests.test_lftp import lftp


def url(daemon: Daemon, path: str) -> str:
    """Return the URL of a path."""
    return f"ftp://{daemon.host}:{daemon.port}/{path}"


def cut_upload(client: FtpClient, line: str, data: bytes) -> None:
    """Send the first bytes of an upload, and cut its data connection."""
    connection = open_transfer(client, line)
    connection.sendall(data)
    cut(connection)
    assert client.reply().startswith("426")


# --- transfers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 8 * MIB, 8 * MIB + 1, len(LARGE)])
def test_files_of_all_sizes(make_daemon: Make, each_bucket: Bucket, tmp_path: Path, size: int) -> None:
    """curl uploads and downloads a file: an object with the path of the user, and nothing else; no local file."""
    daemon = store_daemon(make_daemon, each_bucket)
    (tmp_path / "file").write_bytes(LARGE[:size])
    with withstands(daemon):
        curl("-T", tmp_path / "file", "--ftp-create-dirs", url(daemon, "in/file"))
        found = curl(url(daemon, "in/file"))
    assert found.output == LARGE[:size]
    assert each_bucket.get("alice/in/file") == LARGE[:size]
    assert [key for key in each_bucket.all_keys() if not key.endswith("/")] == ["alice/in/file"]
    assert each_bucket.uploads() == []
    assert not any(path.is_file() for path in (daemon.directory / "homes").rglob("*"))


def test_lftp_mirrors_a_tree(make_daemon: Make, bucket: Bucket, tmp_path: Path) -> None:
    """lftp uploads a tree with all kinds of names, and gets the same tree back."""
    daemon = store_daemon(make_daemon, bucket)
    tree = {
        "a.txt": b"1",
        "with blank/deep/file": b"2",
        "grüße/日本語": b"3",
        "empty": b"",
        "large.bin": LARGE[: 9 * MIB],
    }
    for name, data in tree.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(data)
    with withstands(daemon):
        lftp(daemon, f"mirror -R {tmp_path}/up tree\nmirror tree {tmp_path}/down")
    assert {key.removeprefix("alice/tree/"): data for key, data in bucket.contents().items()} == tree
    down = {
        str(each.relative_to(tmp_path / "down")): each.read_bytes()
        for each in (tmp_path / "down").rglob("*")
        if each.is_file()
    }
    assert down == tree


def test_an_upload_that_is_cut_publishes_nothing(make_daemon: Make, each_bucket: Bucket) -> None:
    """The old object stays whole; SIZE and REST tell where the upload goes on; STOR completes it, APPE too."""
    each_bucket.put("alice/old", b"before")
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        for line, first in (("STOR new", 2), ("STOR old", 1)):
            cut_upload(client, line, LARGE[: first * 8 * MIB + 5000])
        assert each_bucket.contents() == {"alice/old": b"before"}
        assert each_bucket.uploads() == ["alice/new", "alice/old"]
        size = int(client.expect(213, "SIZE new").split()[1])
        assert 0 < size <= 2 * 8 * MIB + 5000
        client.expect(350, f"REST {size}")
        assert client.upload("STOR new", LARGE[size:]).startswith("226")
        assert each_bucket.get("alice/new") == LARGE
        assert client.download("RETR old") == b"before"
        client.expect(250, "DELE old")
    assert each_bucket.all_keys("alice/old") == []


def test_resume_after_a_restart_and_on_another_node(make_daemon: Make, each_bucket: Bucket, tmp_path: Path) -> None:
    """A cut upload goes on after SIGKILL of the daemon, and in a daemon that has never seen it."""
    first, second = (store_daemon(make_daemon, each_bucket) for _ in range(2))
    with secured(first) as client:
        cut_upload(client, "STOR f", LARGE[: 9 * MIB])
        client.expect(213, "SIZE f")  # waits until the store has the parts
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    with secured(second) as client:
        size = int(client.expect(213, "SIZE f").split()[1])
        assert size >= 8 * MIB
        client.expect(350, f"REST {size}")
        connection = open_transfer(client, "STOR f")
        connection.sendall(LARGE[size : 17 * MIB])
        cut(connection)
        client.reply()
        client.expect(213, "SIZE f")
    first.start()
    with withstands(first), secured(first) as client:
        size = int(client.expect(213, "SIZE f").split()[1])
        assert size >= 16 * MIB
        assert client.upload("APPE f", LARGE[size:]).startswith("226")
        assert client.download("RETR f") == LARGE
    assert each_bucket.uploads() == []


def test_curl_and_lftp_resume(make_daemon: Make, bucket: Bucket, tmp_path: Path) -> None:
    """`curl -C -` and `lftp put -c` resume a cut upload; both resume downloads."""
    daemon = store_daemon(make_daemon, bucket)
    (tmp_path / "file").write_bytes(LARGE)
    for name in ("curl", "lftp"):
        with secured(daemon) as client:
            cut_upload(client, f"STOR {name}", LARGE[: 9 * MIB])
    curl("-C", "-", "-T", tmp_path / "file", url(daemon, "curl"))
    lftp(daemon, f"put -c {tmp_path}/file -o lftp")
    assert bucket.contents() == {"alice/curl": LARGE, "alice/lftp": LARGE}
    for name in ("curl", "lftp"):
        (tmp_path / f"down-{name}").write_bytes(LARGE[: 5 * MIB + 3])
    curl("-C", "-", "-o", tmp_path / "down-curl", url(daemon, "curl"))
    lftp(daemon, f"get -c lftp -o {tmp_path}/down-lftp")
    assert (tmp_path / "down-curl").read_bytes() == (tmp_path / "down-lftp").read_bytes() == LARGE


@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_append(make_daemon: Make, each_bucket: Bucket, size: int) -> None:
    """APPE adds to a small object and to a large one, and an offset within an object replaces its end."""
    each_bucket.put("alice/f", LARGE[:size])
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("APPE f", LARGE[size : size + 100]).startswith("226")
        assert each_bucket.get("alice/f") == LARGE[: size + 100]
        client.expect(350, f"REST {size}")
        assert client.upload("STOR f", b"another end").startswith("226")
    assert each_bucket.get("alice/f") == LARGE[:size] + b"another end"


def test_an_object_that_is_replaced_while_it_is_read(make_daemon: Make, bucket: Bucket) -> None:
    """A download of an object that another program replaces ends with 426, or is the old object whole."""
    big = LARGE * 4
    bucket.put("alice/f", big)
    daemon = store_daemon(make_daemon, bucket, memory="32M", part_size="5M", parallel=1)
    with withstands(daemon), secured(daemon) as client:
        connection = open_transfer(client, "RETR f")
        found = connection.recv(MIB)
        bucket.put("alice/f", bytes(len(big)))
        while piece := connection.recv(MIB):
            found += piece
        reply = client.reply()
        assert reply.startswith("426" if found != big else "226"), reply
    assert found == big[: len(found)]
    assert len(found) < len(big)


def test_ranges(make_daemon: Make, each_bucket: Bucket) -> None:
    """RETR begins at any offset; one behind the end gets 554."""
    each_bucket.put("alice/f", LARGE)
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        for offset in (1, 8 * MIB, len(LARGE) - 1, len(LARGE)):
            client.expect(350, f"REST {offset}")
            assert client.download("RETR f") == LARGE[offset:]
        client.expect(350, f"REST {len(LARGE) + 1}")
        connection = client.connect_data()
        client.expect(554, "RETR f")
        connection.close()


# --- directories and facts -------------------------------------------------------------------------


def logged_in(daemon: Daemon) -> ftplib.FTP_TLS:
    """Return ftplib's client."""

    class Resuming(ftplib.FTP_TLS):
        def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[ssl.SSLSocket, int | None]:
            connection, size = ftplib.FTP.ntransfercmd(self, cmd, rest)
            assert isinstance(self.sock, ssl.SSLSocket)
            return self.context.wrap_socket(connection, server_hostname=self.host, session=self.sock.session), size

    ftp = Resuming(context=tls_context(), timeout=30)
    ftp.connect(daemon.host, daemon.port)
    ftp.login("alice", "secret")
    ftp.prot_p()
    ftp.encoding = "utf-8"
    return ftp


def test_directories(make_daemon: Make, each_bucket: Bucket) -> None:
    """ftplib makes, lists, and removes directories; those that other programs made by their keys are there, too."""
    each_bucket.put_many({"alice/tree/a": b"1", "alice/tree/sub/b": b"22", "alice/marked/": b""})
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), logged_in(daemon) as ftp:
        ftp.mkd("new")
        assert "alice/new/" in each_bucket.all_keys()
        facts = {name: (each["type"], each.get("size")) for name, each in ftp.mlsd("") if name not in (".", "..")}
        assert {name: kind for name, (kind, _) in facts.items()} == dict.fromkeys(("tree", "marked", "new"), "dir")
        assert sorted(ftp.nlst("tree")) in (["a", "sub"], ["tree/a", "tree/sub"])
        assert dict(ftp.mlsd("tree"))["a"]["size"] == "1"
        lines: list[str] = []
        ftp.dir("-R", lines.append)
        assert any(line.endswith(" b") for line in lines)
        for path in ("tree", "tree/sub"):
            with pytest.raises(ftplib.error_perm, match="550"):
                ftp.rmd(path)
        ftp.rmd("new")
        ftp.rmd("marked")
        with pytest.raises(ftplib.error_perm, match="550"):
            ftp.rmd("new")
        ftp.cwd("tree/sub")
        assert ftp.pwd() == "/tree/sub"
        with pytest.raises(ftplib.error_perm, match="550"):
            ftp.cwd("/nowhere")
        ftp.cwd("/")
        ftp.delete("tree/sub/b")
        ftp.voidcmd("RMDA tree")
    assert each_bucket.all_keys("alice/tree") == []


def test_a_listing_of_several_pages(make_daemon: Make, bucket: Bucket) -> None:
    """A directory of 2,500 objects is listed completely, and RMDA removes it."""
    bucket.put_many({f"alice/many/{number:05}": b"" for number in range(2_500)})
    daemon = store_daemon(make_daemon, bucket)
    with withstands(daemon), secured(daemon) as client:
        assert len(client.download("NLST many").splitlines()) == 2_500
        assert len(client.download("MLSD many").splitlines()) == 2_500
        client.expect(250, "RMDA many")
    assert bucket.all_keys("alice/") == []


def test_the_first_page_is_sent_at_once(make_daemon: Make, bucket: Bucket) -> None:
    """The client gets the first lines, in order, while the store still makes the second page, and then the others."""
    bucket.put_many({f"alice/many/{number:05}": b"" for number in range(1_200)})
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port)
        with withstands(daemon), secured(daemon) as client:
            proxy.spoil("GET", "continuation-token", Hang())
            connection = open_transfer(client, "NLST many")
            found = b""
            while found.count(b"\n") < 1_000:
                found += connection.recv(MIB)
            assert found.count(b"\n") == 1_000
            proxy.heal()
            while piece := connection.recv(MIB):
                found += piece
            assert client.reply().startswith("226")
        names = [f"many/{number:05}" for number in range(1_200)]
        assert found.decode().split() in (names, [each.removeprefix("many/") for each in names])


def test_times(make_daemon: Make, each_bucket: Bucket) -> None:
    """MDTM is the time of the object, or that of x-amz-meta-mtime, which rclone and s3fs write; MFMT is refused."""
    each_bucket.put("alice/plain", b"1")
    each_bucket.put("alice/dated", b"1", Metadata={"mtime": "1000000000.5"})
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        assert "20010909014640" in client.expect(213, "MDTM dated")
        now = time.strftime("%Y", time.gmtime())
        assert client.expect(213, "MDTM plain").startswith(f"213 {now}")
        assert "cannot be changed in an object store" in client.expect(550, "MFMT 20200101000000 plain")
        assert "no permission bits" in client.expect(550, "SITE CHMOD 600 plain")


def test_times_in_listings(make_daemon: Make, each_bucket: Bucket) -> None:
    """MLSD has the times of MDTM in a directory of up to `exact_times` files, and asks each file once."""
    dated = {"Metadata": {"mtime": "1000000000"}}
    for name in ("small/a", "small/b", "large/a", "large/b", "large/c"):
        each_bucket.put(f"alice/{name}", b"1", **dated)
    with FaultyProxy(each_bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, each_bucket, port=proxy.port, exact_times=2)
        with withstands(daemon), secured(daemon) as client:
            for _ in range(2):
                assert client.download("MLSD small").count(b"modify=20010909014640;") == 2
            assert client.download("LIST small").count(b" 2001 ") == 2
            assert len([each for each in proxy.requests if each.method == "HEAD" and "small/" in each.target]) == 2
            assert b"2001" not in client.download("MLSD large")
            assert "20010909014640" in client.expect(213, "MDTM large/c")
            assert b"modify=20010909014640;" in client.expect(250, "MLST large/c").encode()
            each_bucket.put("alice/small/a", b"new", Metadata={"mtime": "0"})
            assert b"modify=19700101000000;" in client.download("MLSD small").lower()


@pytest.mark.parametrize("mtime", ["-99999999999", "253402300800", "nan", "inf", "yesterday", ""])
def test_times_that_nothing_can_show(make_daemon: Make, bucket: Bucket, mtime: str) -> None:
    """What another program has written as x-amz-meta-mtime counts only if its year has four digits."""
    bucket.put("alice/f", b"1", Metadata={"mtime": mtime})
    year = time.strftime("%Y", time.gmtime())
    daemon = store_daemon(make_daemon, bucket)
    with withstands(daemon), secured(daemon) as client:
        assert client.expect(213, "MDTM f").startswith(f"213 {year}")
        assert f"modify={year}" in client.expect(250, "MLST f").lower()
        assert re.search(r" [A-Z][a-z][a-z] [ \d]\d \d\d:\d\d f\r\n", client.download("LIST").decode())


@pytest.mark.parametrize("error", [Answer(400, ""), Answer(403, ""), Answer(503, "")])
def test_times_that_the_store_does_not_tell(make_daemon: Make, bucket: Bucket, error: Answer) -> None:
    """One file about which the store tells nothing is listed all the same, with the others, until it does tell."""
    for name in ("d/a", "d/b"):
        bucket.put(f"alice/{name}", b"1", Metadata={"mtime": "1000000000"})
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port)
        with secured(daemon) as client:
            proxy.spoil("HEAD", "alice/d/b", error, times=4)
            listed = client.download("LIST -R")
            assert (listed.count(b" a\r\n"), listed.count(b" b\r\n"), listed.count(b" 2001 ")) == (1, 1, 1)
            proxy.heal()
            assert client.download("MLSD d").count(b"modify=20010909014640;") == 2


def test_facts(make_daemon: Make, each_bucket: Bucket) -> None:
    """SIZE and HASH have the facts of the content, also of an object in many parts; AVBL is a large number."""
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR f", LARGE).startswith("226")
        assert client.expect(213, "SIZE f") == f"213 {len(LARGE)}"
        client.expect(200, "OPTS HASH SHA-256")
        assert hashlib.sha256(LARGE).hexdigest() in client.expect(213, "HASH f").lower()
        assert int(client.expect(213, "AVBL").split()[1]) >= 1 << 40


def test_checksums_of_the_store(make_daemon: Make, bucket: Bucket) -> None:
    """HASH fetches nothing if the store has the checksum of the whole object; one of parts, or of a range, is none."""
    client, data = bucket.client, LARGE[: 6 * MIB]
    for name, algorithm in (("sha256", "SHA256"), ("sha1", "SHA1"), ("crc32", "CRC32")):
        bucket.put(f"alice/{name}", data, ChecksumAlgorithm=algorithm)
    named = {"Bucket": bucket.name, "Key": "alice/parts"}
    upload = client.create_multipart_upload(**named, ChecksumAlgorithm="SHA256")["UploadId"]
    part = client.upload_part(**named, UploadId=upload, PartNumber=1, Body=data, ChecksumAlgorithm="SHA256")
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}]
    client.complete_multipart_upload(**named, UploadId=upload, MultipartUpload={"Parts": parts})
    expected = {
        "SHA-256": hashlib.sha256(data).hexdigest(),
        "SHA-1": hashlib.sha1(data).hexdigest(),
        "CRC32": f"{zlib.crc32(data):08x}",
        "MD5": hashlib.md5(data).hexdigest(),
    }
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port)
        with withstands(daemon), secured(daemon) as session:

            def fetches(algorithm: str, name: str) -> bool:
                before = len(proxy.requests)
                session.expect(200, f"OPTS HASH {algorithm}")
                reply = session.expect(213, f"HASH {name}")
                assert f"{algorithm} 0-{len(data) - 1} {expected[algorithm]} " in reply
                return any(
                    each.method == "GET" and name in each.target.split("?")[0] for each in proxy.requests[before:]
                )

            for algorithm, name in (("SHA-256", "sha256"), ("SHA-1", "sha1"), ("CRC32", "crc32")):
                assert not fetches(algorithm, name)
            for algorithm, name in (("SHA-256", "parts"), ("SHA-1", "sha256"), ("MD5", "sha256")):
                assert fetches(algorithm, name)
            session.expect(200, "OPTS HASH SHA-256")
            session.expect(350, "RANG 0 9")
            assert hashlib.sha256(data[:10]).hexdigest() in session.expect(213, "HASH sha256")
            session.expect(350, "REST 5")
            assert hashlib.sha256(data[5:]).hexdigest() in session.expect(213, "HASH sha256")


def test_renames(make_daemon: Make, each_bucket: Bucket) -> None:
    """A file is renamed, with its content; a directory only if it has no more objects than is permitted."""
    each_bucket.put_many({"alice/f": LARGE[: 9 * MIB], "alice/d/1": b"1", "alice/d/2": b"2"})
    daemon = store_daemon(make_daemon, each_bucket)
    with withstands(daemon), secured(daemon) as client:
        client.expect(350, "RNFR f")
        client.expect(250, "RNTO sub.g")
        assert each_bucket.get("alice/sub.g") == LARGE[: 9 * MIB]
        client.expect(350, "RNFR d")
        refused = client.expect(553, "RNTO e")
        assert "irector" in refused, refused
        entry = daemon.settings["storage"]["archive"]
        entry["rename_directories"] = 2
        daemon.write()
        daemon.reload()
    with withstands(daemon), secured(daemon) as client:
        client.expect(350, "RNFR d")
        client.expect(250, "RNTO e")
        each_bucket.put("alice/e/3", b"3")
        client.expect(350, "RNFR e")
        client.expect(553, "RNTO f")
    assert sorted(each_bucket.all_keys()) == ["alice/e/1", "alice/e/2", "alice/e/3", "alice/sub.g"]


# --- homes, folders, quotas ------------------------------------------------------------------------


def test_folders_here_and_there(make_daemon: Make, bucket: Bucket) -> None:
    """A home on a disk has a folder in a store, and a home in a store one on a disk; files move neither way: 553."""
    directory = bucket.name  # a name that no other test has
    daemon = store_daemon(
        make_daemon,
        bucket,
        {
            "alice": {"folders": {"/old": {"storage": "archive", "path": "old/"}}},
            "bob": {
                "home": HOME,
                "folders": {"/disk": {"path": directory}, "/old": {"storage": "archive", "path": "old"}},
            },
        },
        start=False,
    )
    (daemon.directory / directory).mkdir()
    daemon.start()
    with withstands(daemon), secured(daemon) as alice, secured(daemon, "bob") as bob:
        assert alice.upload("STOR here", b"home").startswith("226")
        assert alice.upload("STOR old/there", b"store").startswith("226")
        assert bob.download("RETR old/there") == b"store"
        assert bob.upload("STOR mine", b"m").startswith("226")
        assert bob.upload("STOR disk/local", b"l").startswith("226")
        assert sorted(bob.download("NLST").split()) == [b"disk", b"mine", b"old"]
        for client, old, new in ((alice, "here", "old/x"), (alice, "old/there", "x"), (bob, "mine", "old/mine")):
            client.expect(350, f"RNFR {old}")
            client.expect(553, f"RNTO {new}")
    assert bucket.contents() == {"old/there": b"store", "bob/mine": b"m"}
    assert (daemon.home() / "here").read_bytes() == b"home"
    assert (daemon.directory / directory / "local").read_bytes() == b"l"


@pytest.mark.parametrize("permissions", ["read-only", "drop-box"])
def test_anonymous_users(make_daemon: Make, bucket: Bucket, permissions: str) -> None:
    """Anonymous users can have a home in a store: they read it, or upload what they do not see, within a quota."""
    bucket.put_many({"public/readme": b"hello", "secret": b"x"})
    place = {"storage": "archive", "path": "public/"}
    public = {"anonymous": {"home": place, "permissions": permissions, "quota": {"bytes": "1M"}}}
    daemon = store_daemon(make_daemon, bucket, settings=public)
    with withstands(daemon), secured(daemon, "anonymous") as client:
        if permissions == "read-only":
            assert client.download("NLST").split() == [b"readme"]
            assert client.download("RETR readme") == b"hello"
            client.expect(550, "DELE readme")
            client.expect(550, "SIZE ../secret")
        else:
            assert client.upload("STOR new", b"data").startswith("226")
            connection = client.connect_data()
            client.expect(550, "NLST")
            connection.close()
            client.expect(550, "SIZE readme")
            assert client.upload("STOR readme", b"data").startswith("226")  # under a name that is free
    found = bucket.contents()
    assert (found.pop("public/readme"), found.pop("secret")) == (b"hello", b"x")
    assert list(found.values()) == ([] if permissions == "read-only" else [b"data", b"data"])


def test_users_see_only_their_prefix(make_daemon: Make, bucket: Bucket) -> None:
    """A user cannot reach what is beside the home, also where a name only begins alike."""
    bucket.put_many({"alice/mine": b"1", "alice2/other": b"2", "top": b"3"})
    daemon = store_daemon(make_daemon, bucket)
    with withstands(daemon), secured(daemon) as client:
        assert client.download("NLST /").split() == [b"/mine"]
        client.expect(250, "CWD ..")
        assert client.download("NLST").split() == [b"mine"]
        for path in ("../top", "/../alice2/other", "../alice2/other"):
            client.expect(550, f"SIZE {path}")


def test_quota(make_daemon: Make, each_bucket: Bucket) -> None:
    """What is in the store counts; an upload that exceeds the quota gets 552 and publishes nothing; DELE frees."""
    each_bucket.put("alice/before", LARGE[: 4 * MIB])
    users = {"alice": {"home": HOME, "quota": {"bytes": 10 * MIB, "files": 3}}}
    daemon = store_daemon(make_daemon, each_bucket, users)
    with withstands(daemon), secured(daemon) as client:
        assert client.expect(213, "AVBL") == f"213 {6 * MIB}"
        assert client.upload("STOR a", LARGE[: 5 * MIB]).startswith("226")
        connection = open_transfer(client, "STOR b")
        with pytest.raises(OSError):
            for _ in range(100):
                connection.sendall(LARGE[: 4 * MIB])
        assert client.reply().startswith("552")
        assert sorted(each_bucket.all_keys()) == ["alice/a", "alice/before"]
        client.expect(250, "DELE before")
        assert client.expect(213, "AVBL") == f"213 {5 * MIB}"
        assert client.upload("STOR b", b"").startswith("226")
        assert client.upload("STOR c", b"").startswith("226")
        connection = client.connect_data()
        assert client.command("STOR d").startswith("552")
        connection.close()


def test_reload_changes_stores(make_daemon: Make, bucket: Bucket, moto: S3Server) -> None:
    """New sessions use the store as it is configured now; a running session ends with the one that it began with."""
    daemon, other = store_daemon(make_daemon, bucket), moto.new_bucket()
    with withstands(daemon), secured(daemon) as old:
        connection = open_transfer(old, "STOR slow")
        connection.sendall(LARGE[:MIB])
        daemon.settings["storage"]["archive"] = other.settings(daemon.directory)
        daemon.write()
        daemon.reload()
        with secured(daemon) as new:
            assert new.upload("STOR new", b"new").startswith("226")
        connection.sendall(LARGE[MIB:])
        assert isinstance(connection, ssl.SSLSocket)
        connection.unwrap().close()
        assert old.reply().startswith("226")
    assert bucket.contents() == {"alice/slow": LARGE}
    assert other.contents() == {"alice/new": b"new"}


@one_process("workers do not know the uploads of each other (docs/storage.md, several workers and nodes)")
def test_a_reload_keeps_track_of_uploads(make_daemon: Make, bucket: Bucket) -> None:
    """What runs in a store as it was before a reload is known to sessions that have the new one."""
    bucket.put("alice/d/")
    daemon = store_daemon(make_daemon, bucket)
    with withstands(daemon), secured(daemon) as old:
        connection = open_transfer(old, "STOR d/f")
        connection.sendall(LARGE[: 17 * MIB])
        deadline = time.monotonic() + 60
        while not bucket.uploads():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        daemon.settings["storage"]["archive"]["parallel"] = 3
        daemon.write()
        daemon.reload()
        with secured(daemon) as new:
            new.expect(550, "RMD d")
            assert new.upload("STOR d/f", b"new").startswith("226")
        connection.sendall(LARGE[17 * MIB :])
        assert isinstance(connection, ssl.SSLSocket)
        connection.unwrap().close()
        assert old.reply().startswith("226")
    assert bucket.contents() == {"alice/d/f": LARGE}
    assert bucket.uploads() == []


def test_the_sandbox_lets_boto3_work(make_daemon: Make, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `credentials: default` boto3 reads ~/.aws behind the sandbox, wherever that is."""
    daemon = store_daemon(make_daemon, bucket, start=False)
    aws = daemon.directory / "aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = test:tester\naws_secret_access_key = testing-secret\n"
    )
    (aws / "config").write_text("[default]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(aws / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(aws / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    entry = daemon.settings["storage"]["archive"]
    del entry["region"]
    entry["credentials"] = "default"
    daemon.write()
    daemon.start()
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR f", b"1").startswith("226")
    assert bucket.contents() == {"alice/f": b"1"}
    assert "testing-secret" not in daemon.log


def test_a_role(make_daemon: Make, bucket: Bucket) -> None:
    """With `credentials.role` the requests have the temporary credentials of the role, which the keys assume."""
    with FaultyProxy(bucket.server.port) as proxy:
        daemon = store_daemon(make_daemon, bucket, port=proxy.port, start=False)
        entry = daemon.settings["storage"]["archive"]["credentials"]
        entry["role"] = "arn:aws:iam::123456789012:role/ftp"
        daemon.write()
        daemon.start()
        with withstands(daemon), secured(daemon) as client:
            assert client.upload("STOR f", b"1").startswith("226")
        assert [each for each in proxy.requests if "/sts/aws4_request" in each.headers["authorization"]]
        (put,) = [each for each in proxy.requests if each.method == "PUT"]
        assert put.headers["x-amz-security-token"]
        assert "test:tester" not in put.headers["authorization"]


def test_events_for_programs(make_daemon: Make, bucket: Bucket, tmp_path: Path) -> None:
    """Rules get uploads, renames and removals in a store as they get those on a disk, and none that failed."""
    rules = settings({"on": ["upload", "delete", "rename"]})
    daemon = store_daemon(make_daemon, bucket, settings={**rules, **with_state(tmp_path / "state")})
    with withstands(daemon), secured(daemon) as client:
        assert client.upload("STOR f", LARGE).startswith("226")
        cut_upload(client, "STOR cut", LARGE[: 9 * MIB])
        client.expect(350, "RNFR f")
        client.expect(250, "RNTO g")
        client.expect(550, "DELE f")
        client.expect(250, "DELE g")
    journal = JournalNow(daemon)
    made = [(each["event"], each["path"], each.get("size")) for each in journal.made]
    assert made == [("upload", "/f", len(LARGE)), ("rename", "/f", None), ("delete", "/g", None)]
    assert journal.undecided == set()
