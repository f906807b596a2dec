#!/bin/sh
# wget, which only downloads: MODE HOST PORT USER DIRECTORY
set -e
case $1 in implicit) more=--ftps-implicit ;; esac
cd "$5"
run() { wget -nv --no-check-certificate --tries 1 --timeout 10 --user "$user" --password secret $more "$@"; }
user=$4
run -O down.bin "ftps://$2:$3/dir/b.bin"
mv part.bin b.bin
run -c "ftps://$2:$3/dir/b.bin"
mv b.bin part.bin
echo done
