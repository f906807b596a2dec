"""aioftp: MODE HOST PORT USER DIRECTORY."""

import asyncio
import os
import ssl
import sys

import aioftp


async def main(mode: str, host: str, port: str, user: str, directory: str) -> None:
    """The session that every driver here has."""
    context = ssl._create_unverified_context()
    client = aioftp.Client(ssl=context if mode == "implicit" else None, socket_timeout=10)
    await client.connect(host, int(port))
    if mode == "explicit":
        await client.upgrade_to_tls(context)
    await client.login(user, "secret")
    await client.make_directory("dir")
    await client.upload(f"{directory}/up.bin", "dir/a.bin", write_into=True)
    print("names:", *[path.name for path, _ in await client.list("dir")])
    await client.download("dir/a.bin", f"{directory}/down.bin", write_into=True)
    part = f"{directory}/part.bin"
    with open(part, "ab") as file:
        async with client.download_stream("dir/a.bin", offset=os.path.getsize(part)) as stream:
            async for block in stream.iter_by_block():
                file.write(block)
    await client.rename("dir/a.bin", "dir/b.bin")
    await client.quit()
    print("done")


asyncio.run(main(*sys.argv[1:]))
