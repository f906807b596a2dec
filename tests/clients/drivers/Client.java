// Apache Commons Net's FTPSClient, in one JVM for all sessions: starting it takes longer than they do.
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.lang.reflect.Field;
import java.lang.reflect.Method;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import javax.net.ssl.SSLSession;
import javax.net.ssl.SSLSessionContext;
import javax.net.ssl.SSLSocket;
import org.apache.commons.net.PrintCommandListener;
import org.apache.commons.net.ftp.FTP;
import org.apache.commons.net.ftp.FTPFile;
import org.apache.commons.net.ftp.FTPSClient;
import org.apache.commons.net.util.TrustManagerUtils;

public class Client {
    /** The known subclass for servers that want resumption: it puts the control connection's session where Java
     *  looks for that of the data connection. Of TLS 1.3, Java keeps the tickets elsewhere, and takes each once. */
    static class Resuming extends FTPSClient {
        Resuming(boolean implicit) {
            super(implicit);
        }

        @Override
        protected void _prepareDataSocket_(Socket data) throws IOException {
            if (!(data instanceof SSLSocket)) {
                return;
            }
            SSLSession session = ((SSLSocket) _socket_).getSession();
            SSLSessionContext context = session.getSessionContext();
            try {
                Field field = context.getClass().getDeclaredField("sessionHostPortCache");
                field.setAccessible(true);
                Object cache = field.get(context);
                Method put = cache.getClass().getDeclaredMethod("put", Object.class, Object.class);
                put.setAccessible(true);
                for (String host : List.of(data.getInetAddress().getHostAddress(), data.getInetAddress().getHostName())) {
                    put.invoke(cache, host.toLowerCase() + ":" + data.getPort(), session);
                }
            } catch (ReflectiveOperationException error) {
                throw new IOException(error);
            }
        }
    }

    static void must(boolean good, FTPSClient client) throws IOException {
        if (!good) {
            throw new IOException(client.getReplyString());
        }
    }

    /** Uploads, lists, downloads, resumes and renames below one directory of the server. */
    static void session(FTPSClient client, String directory, File local) throws IOException {
        client.execPBSZ(0);
        client.execPROT("P");
        client.enterLocalPassiveMode();
        must(client.setFileType(FTP.BINARY_FILE_TYPE), client);
        must(client.makeDirectory(directory), client);
        try (FileInputStream input = new FileInputStream(new File(local, "up.bin"))) {
            must(client.storeFile(directory + "/a.bin", input), client);
        }
        List<String> listed = new ArrayList<>();
        for (FTPFile file : client.listFiles(directory)) {
            listed.add(file.getName() + "=" + file.getSize());
        }
        System.out.println("listed: " + listed);
        System.out.println("names: " + Arrays.toString(client.listNames(directory)));
        try (FileOutputStream output = new FileOutputStream(new File(local, "down.bin"))) {
            must(client.retrieveFile(directory + "/a.bin", output), client);
        }
        File part = new File(local, "part.bin");
        client.setRestartOffset(part.length());
        try (FileOutputStream output = new FileOutputStream(part, true)) {
            must(client.retrieveFile(directory + "/a.bin", output), client);
        }
        must(client.rename(directory + "/a.bin", directory + "/b.bin"), client);
        must(client.logout(), client);
    }

    /** HOST LOCAL, then MODE:PORT:USER:VERSION:resume|plain:NAME for each session; NAME is a directory there and here. */
    public static void main(String[] arguments) throws Exception {
        for (String argument : Arrays.asList(arguments).subList(2, arguments.length)) {
            String[] words = argument.split(":");
            boolean implicit = words[0].equals("implicit");
            FTPSClient client = words[4].equals("resume") ? new Resuming(implicit) : new FTPSClient(implicit);
            client.setTrustManager(TrustManagerUtils.getAcceptAllTrustManager());
            client.setEnabledProtocols(new String[] {"TLSv" + words[3]});
            client.addProtocolCommandListener(new PrintCommandListener(System.out, true));
            client.setDefaultTimeout(10000);
            client.setDataTimeout(10000);
            try {
                client.connect(arguments[0], Integer.parseInt(words[1]));
                must(client.login(words[2], "secret"), client);
                session(client, words[5], new File(arguments[1], words[5]));
                System.out.println("done: " + words[5]);
            } catch (IOException error) {
                System.out.println("failed: " + words[5] + ": " + error);
            } finally {
                client.disconnect();
            }
        }
    }
}
