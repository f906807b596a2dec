<?php // PHP's ftp extension: MODE HOST PORT USER DIRECTORY
[, $mode, $host, $port, $user, $directory] = $argv;
function must($good, $what) { if ($good === false) { echo "failed: $what\n"; exit(1); } return $good; }
$ftp = must(ftp_ssl_connect($host, (int) $port, 10), 'connect');
must(ftp_login($ftp, $user, 'secret'), 'login');
ftp_pasv($ftp, true);
must(ftp_mkdir($ftp, 'dir'), 'mkdir');
must(ftp_put($ftp, 'dir/a.bin', "$directory/up.bin", FTP_BINARY), 'put');
echo 'names: ', implode(' ', must(ftp_nlist($ftp, 'dir'), 'nlist')), "\n";
echo 'names: ', implode(' ', must(ftp_nlist($ftp, '/dir/'), 'nlist')), "\n";
echo 'listed: ', implode(' | ', must(ftp_rawlist($ftp, 'dir'), 'rawlist')), "\n";
echo 'facts: ', json_encode(must(ftp_mlsd($ftp, 'dir'), 'mlsd')), "\n";
must(ftp_get($ftp, "$directory/down.bin", 'dir/a.bin', FTP_BINARY), 'get');
must(ftp_get($ftp, "$directory/part.bin", 'dir/a.bin', FTP_BINARY, filesize("$directory/part.bin")), 'resume');
must(ftp_rename($ftp, 'dir/a.bin', 'dir/b.bin'), 'rename');
ftp_close($ftp);
echo "done\n";
