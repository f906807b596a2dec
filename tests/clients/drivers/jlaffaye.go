// jlaffaye/ftp: MODE HOST PORT USER DIRECTORY
package main

import (
	"crypto/tls"
	"fmt"
	"io"
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

func main() {
	mode, host, port, user, directory := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	config := &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}
	if os.Getenv("RESUME") != "" {
		config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	}
	if os.Getenv("TLS") == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	way := ftp.DialWithExplicitTLS(config)
	if mode == "implicit" {
		way = ftp.DialWithTLS(config)
	}
	client, err := ftp.Dial(host+":"+port, way, ftp.DialWithTimeout(10*time.Second))
	must(err)
	must(client.Login(user, "secret"))
	must(client.MakeDir("dir"))
	up, err := os.Open(directory + "/up.bin")
	must(err)
	must(client.Stor("dir/a.bin", up))
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
	rest, err := client.RetrFrom("dir/a.bin", uint64(part.Size()))
	must(err)
	save(rest, directory+"/part.bin", os.O_APPEND)
	must(client.Rename("dir/a.bin", "dir/b.bin"))
	must(client.Quit())
	fmt.Println("done")
}
