// ftp of npm, of 2014: MODE HOST PORT USER DIRECTORY. It knows no REST for uploads.
const Client = require("ftp")
const fs = require("fs")

const [mode, host, port, user, directory] = process.argv.slice(2)
const client = new Client()
const call = (name, ...rest) => new Promise((resolve, reject) =>
    client[name](...rest, (error, result) => error ? reject(error) : resolve(result)))
const save = (name, path, flags) => new Promise((resolve, reject) => // the stream flows once the callback has returned
    client.get(name, (error, stream) => error ? reject(error) :
        stream.on("error", reject).pipe(fs.createWriteStream(path, { flags })).on("finish", resolve)))

client.on("error", error => { console.error(error); process.exit(1) })
client.on("ready", async () => {
    try {
        await call("mkdir", "dir")
        await call("put", `${directory}/up.bin`, "dir/a.bin")
        console.log("names:", (await call("list", "dir")).map(file => file.name).join(" "))
        await save("dir/a.bin", `${directory}/down.bin`, "w")
        await call("restart", fs.statSync(`${directory}/part.bin`).size)
        await save("dir/a.bin", `${directory}/part.bin`, "a")
        await call("rename", "dir/a.bin", "dir/b.bin")
        client.end()
        console.log("done")
    } catch (error) { console.error(error); process.exit(1) }
})
client.connect({ host, port: Number(port), user, password: "secret", secure: mode === "implicit" ? "implicit" : true,
    secureOptions: { rejectUnauthorized: false }, connTimeout: 10000, pasvTimeout: 10000 })
