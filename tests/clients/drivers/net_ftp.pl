# Perl's Net::FTP: MODE HOST PORT USER DIRECTORY
use strict;
use warnings;
use Net::FTP;

my ($mode, $host, $port, $user, $directory) = @ARGV;
my $ftp = Net::FTP->new($host, Port => $port, SSL => $mode eq 'implicit', SSL_verify_mode => 0,
    SSL_version => $ENV{TLS} eq '1.2' ? 'TLSv1_2' : 'SSLv23', Passive => 1,
    Timeout => 5) or die "connect: $@";
if ($mode eq 'explicit') { $ftp->starttls or die 'starttls: ', $ftp->message }
$ftp->login($user, 'secret') or die 'login: ', $ftp->message;
$ftp->prot('P') or die 'prot: ', $ftp->message;
$ftp->binary;
$ftp->mkdir('dir') or die 'mkdir: ', $ftp->message;
$ftp->put("$directory/up.bin", 'dir/a.bin') or die 'put: ', $ftp->message;
print 'names: ', join(' ', $ftp->ls('dir')), "\n";
print 'listed: ', join(' | ', $ftp->dir('dir')), "\n";
$ftp->get('dir/a.bin', "$directory/down.bin") or die 'get: ', $ftp->message;
$ftp->get('dir/a.bin', "$directory/part.bin", -s "$directory/part.bin") or die 'resume: ', $ftp->message;
$ftp->rename('dir/a.bin', 'dir/b.bin') or die 'rename: ', $ftp->message;
$ftp->quit;
print "done\n";
