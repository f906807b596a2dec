#!/bin/sh
# rclone: MODE HOST PORT USER DIRECTORY, and more of its options
set -e
case $1 in implicit) tls=--ftp-tls ;; *) tls=--ftp-explicit-tls ;; esac
host=$2 port=$3 user=$4 directory=$5
shift 5
run() {
    rclone "$@" --config /dev/null --retries 1 --low-level-retries 1 --timeout 10s --ftp-host "$host" --ftp-port "$port" \
        --ftp-user "$user" --ftp-pass "$(rclone obscure secret)" $tls --ftp-no-check-certificate
}
run copyto "$@" "$directory/up.bin" :ftp:dir/a.bin
run lsf "$@" :ftp:dir
run copyto "$@" :ftp:dir/a.bin "$directory/down.bin"
run moveto "$@" :ftp:dir/a.bin :ftp:dir/b.bin
echo done
