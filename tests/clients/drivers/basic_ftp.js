// basic-ftp of npm: MODE HOST PORT USER DIRECTORY
const { Client } = require("basic-ftp")
const fs = require("fs")

async function main([mode, host, port, user, directory]) {
    const client = new Client(10000)
    client.ftp.verbose = true
    await client.access({ host, port: Number(port), user, password: "secret",
        secure: mode === "implicit" ? "implicit" : true, secureOptions: { rejectUnauthorized: false } })
    await client.send("MKD dir")
    await client.uploadFrom(`${directory}/up.bin`, "dir/a.bin")
    console.log("names:", (await client.list("dir")).map(file => file.name).join(" "))
    await client.downloadTo(`${directory}/down.bin`, "dir/a.bin")
    const offset = fs.statSync(`${directory}/part.bin`).size
    await client.downloadTo(fs.createWriteStream(`${directory}/part.bin`, { flags: "a" }), "dir/a.bin", offset)
    await client.rename("dir/a.bin", "dir/b.bin")
    client.close()
    console.log("done")
}

main(process.argv.slice(2)).catch(error => { console.error(error); process.exit(1) })
