#!/bin/sh
# duplicity, which drives lftp: MODE HOST PORT USER DIRECTORY
set -e
case $1 in implicit) at=ftps ;; *) at=ftpes ;; esac
export FTP_PASSWORD=secret HOME="$5"
mkdir "$5/source" && cp "$5/up.bin" "$5/source"
run() { duplicity "$@" --no-encryption --ssl-no-check-certificate --num-retries 1 --archive-dir "$directory/cache"; }
directory=$5 url=$at://$4@$2:$3//
run "$5/source" "$url"
run "$url" "$5/restored"
mv "$5/restored/up.bin" "$5/down.bin"
echo done
