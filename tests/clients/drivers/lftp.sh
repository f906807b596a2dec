#!/bin/sh
# lftp: MODE HOST PORT USER DIRECTORY
case $1 in implicit) at=ftps ;; *) at=ftp ;; esac
cd "$5" && exec lftp --norc -c "set ssl:verify-certificate no; set ftp:ssl-force true; set net:max-retries 1;
set cmd:fail-exit true; open -u $4,secret $at://$2:$3; mkdir dir; put up.bin -o dir/a.bin; nlist dir; ls dir;
get dir/a.bin -o down.bin; get -c dir/a.bin -o part.bin; mv dir/a.bin dir/b.bin; echo done"
