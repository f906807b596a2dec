#!/bin/sh
# rclone with many files, empty ones among them: MODE HOST PORT USER DIRECTORY, and more of its options
set -e
. "${0%/*}/rclone_run"
mkdir "$directory/dir"
for number in 1 2 3 4 5 6 7 8 9 10 11 12; do
    mkdir "$directory/dir/[$number] a"
    : > "$directory/dir/[$number] a/-empty"
    echo "$number" > "$directory/dir/[$number] a/it's $number"
done
cp "$directory/up.bin" "$directory/dir/b.bin"
run sync "$@" "$directory/dir" :ftp:dir
run sync "$@" :ftp:dir "$directory/back"
diff -r "$directory/dir" "$directory/back"
mv "$directory/back/b.bin" "$directory/down.bin"
echo done
