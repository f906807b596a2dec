#!/bin/sh
# GVfs, of file managers, in a D-Bus session of its own: MODE HOST PORT USER DIRECTORY
case $1 in implicit) at=ftpis ;; *) at=ftps ;; esac
export url="$at://$4@$2:$3" directory="$5" XDG_RUNTIME_DIR="$5" GIO_USE_VOLUME_MONITOR=unix
exec dbus-run-session -- sh -ec '
    printf "1\nsecret\n" | gio mount "$url/" # 1: the certificate is believed
    gio mkdir "$url/dir"
    gio copy "$directory/up.bin" "$url/dir/a.bin"
    gio list "$url/dir"
    gio copy "$url/dir/a.bin" "$directory/down.bin"
    gio rename "$url/dir/a.bin" b.bin
    gio mount -u "$url/"
    echo done'
