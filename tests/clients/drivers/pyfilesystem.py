"""PyFilesystem2: MODE HOST PORT USER DIRECTORY."""

import sys

from fs import ftpfs

_, mode, host, port, user, directory = sys.argv
with ftpfs.FTPFS(host, user, "secret", port=int(port), timeout=10, tls=True) as fs:
    fs.makedir("dir")
    with open(f"{directory}/up.bin", "rb") as file, fs.openbin("dir/a.bin", "w") as remote:
        remote.write(file.read())  # upload() of the same library sends close_notify, this does not
    print("names:", *fs.listdir("dir"))
    with open(f"{directory}/down.bin", "wb") as file:
        fs.download("dir/a.bin", file)
    with open(f"{directory}/part.bin", "ab") as file, fs.openbin("dir/a.bin") as remote:
        remote.seek(file.tell())
        while data := remote.read(65536):
            file.write(data)
    fs.move("dir/a.bin", "dir/b.bin")
print("done")
