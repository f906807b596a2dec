// jlaffaye/ftp: MODE HOST PORT USER DIRECTORY [OPTION]
//
// The option "cache" gives crypto/tls a cache of sessions, which the data connections resume, but not with "nameless".
// "later" starts TLS on a data connection with its first byte, as newer releases of the library do; Debian 12's ends the
// handshake before it sends the command. "append" only appends what the server lacks of file.bin.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/jlaffaye/ftp"
)

func must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

func save(source io.ReadCloser, path string, flags int) {
	file, err := os.OpenFile(path, flags|os.O_WRONLY|os.O_CREATE, 0644)
	must(err)
	_, err = io.Copy(file, source)
	must(err)
	must(file.Close())
	must(source.Close())
}

// startLater returns a function that opens connections. The first one is that of the commands: the library starts TLS
// there, unless it is implicit.
func startLater(config *tls.Config, implicit bool) func(string, string) (net.Conn, error) {
	commands := true
	return func(network, address string) (net.Conn, error) {
		connection, err := net.DialTimeout(network, address, 10*time.Second)
		if err != nil || (commands && !implicit) {
			commands = false
			return connection, err
		}
		commands = false
		return tls.Client(connection, config), nil
	}
}

// rest returns what a file has behind an offset.
func rest(path string, offset int64) io.Reader {
	file, err := os.Open(path)
	must(err)
	_, err = file.Seek(offset, io.SeekStart)
	must(err)
	return file
}

func main() {
	mode, host, port, user, directory := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
	options := map[string]bool{}
	for _, option := range os.Args[6:] {
		options[option] = true
	}
	if options["cache"] {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	if options["nameless"] {
		config.ServerName = ""
	}
	if os.Getenv("TLS") == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	way := ftp.DialWithExplicitTLS(config)
	if mode == "implicit" {
		way = ftp.DialWithTLS(config)
	}
	dial := []ftp.DialOption{way, ftp.DialWithTimeout(10 * time.Second)}
	if options["later"] {
		dial = append(dial, ftp.DialWithDialFunc(startLater(config, mode == "implicit")))
	}
	client, err := ftp.Dial(host+":"+port, dial...)
	must(err)
	must(client.Login(user, "secret"))
	if options["append"] {
		size, err := client.FileSize("file.bin")
		must(err)
		must(client.Append("file.bin", rest(directory+"/file.bin", size)))
		must(client.Quit())
		return
	}
	must(client.MakeDir("dir"))
	up := directory + "/up.bin"
	must(client.Stor("dir/a.bin", io.LimitReader(rest(up, 0), 300_000)))
	must(client.StorFrom("dir/a.bin", io.LimitReader(rest(up, 200_000), 400_000), 200_000))
	size, err := client.FileSize("dir/a.bin")
	must(err)
	must(client.Append("dir/a.bin", rest(up, size)))
	names, err := client.NameList("dir")
	must(err)
	fmt.Println("names:", names)
	entries, err := client.List("dir")
	must(err)
	fmt.Println("listed:", entries[0].Name)
	down, err := client.Retr("dir/a.bin")
	must(err)
	save(down, directory+"/down.bin", os.O_TRUNC)
	part, err := os.Stat(directory + "/part.bin")
	must(err)
	missing, err := client.RetrFrom("dir/a.bin", uint64(part.Size()))
	must(err)
	save(missing, directory+"/part.bin", os.O_APPEND)
	must(client.Rename("dir/a.bin", "dir/b.bin"))
	must(client.Quit())
	fmt.Println("done")
}
