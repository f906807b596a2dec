# Ruby's Net::FTP: MODE HOST PORT USER DIRECTORY
require "net/ftp"

mode, host, port, user, directory = ARGV
tls = { verify_mode: OpenSSL::SSL::VERIFY_NONE }
tls[:ssl_version] = :TLSv1_2 if ENV["TLS"] == "1.2"
Net::FTP.open(host, port: port.to_i, username: user, password: "secret", ssl: tls,
                    implicit_ftps: mode == "implicit", open_timeout: 10, read_timeout: 10) do |ftp|
  ftp.mkdir("dir")
  ftp.putbinaryfile("#{directory}/up.bin", "dir/a.bin")
  puts "names: #{ftp.nlst("dir").join(" ")}"
  puts "listed: #{ftp.list("dir").join(" | ")}"
  puts "facts: #{ftp.mlsd("dir").map(&:pathname).join(" ")}"
  ftp.getbinaryfile("dir/a.bin", "#{directory}/down.bin")
  ftp.resume = true
  ftp.getbinaryfile("dir/a.bin", "#{directory}/part.bin")
  ftp.rename("dir/a.bin", "dir/b.bin")
end
puts "done"
