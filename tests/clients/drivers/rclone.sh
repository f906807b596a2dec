#!/bin/sh
# rclone: MODE HOST PORT USER DIRECTORY, and more of its options
set -e
. "${0%/*}/rclone_run"
run copyto "$@" "$directory/up.bin" :ftp:dir/a.bin
run lsf "$@" :ftp:dir
run copyto "$@" :ftp:dir/a.bin "$directory/down.bin"
run moveto "$@" :ftp:dir/a.bin :ftp:dir/b.bin
echo done
