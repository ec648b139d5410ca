import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * One Elasticsearch or OpenSearch server in the foreground. Arguments: HOME PORT [key=value ...].
 *
 * <p>What differs between the versions is in {@code TestNode}, of which each family has its own.
 */
public final class Main {
    /** How long a lone server may look for its shards before it counts as ready without them. */
    private static final String SHARDS_TIMEOUT = "20s";

    public static void main(String[] arguments) throws Exception {
        if (arguments.length < 2) {
            System.err.println("arguments: HOME PORT [key=value ...]");
            System.exit(2);
        }
        Path home = Paths.get(arguments[0]).toAbsolutePath();
        Map<String, String> settings = settings(home, arguments);
        if (Boolean.getBoolean("data-patch.until-stdin-closes")) {
            watchStdin();
        }
        Files.createDirectories(home.resolve("config"));
        Files.createDirectories(home.resolve("logs"));
        // A server that was killed leaves them behind, with the ports that it had.
        Files.deleteIfExists(home.resolve("logs/http.ports"));
        Files.deleteIfExists(home.resolve("logs/transport.ports"));

        Closeable node = TestNode.start(home, settings);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> close(node)));
        int port = boundPort(home.resolve("logs/http.ports"));
        boolean alone = "single-node".equals(settings.get("discovery.type"));
        // Shards are looked for only after the start, and until they are found their index answers 503.
        waitUntilAnswered(port, alone ? "/_cluster/health?wait_for_status=yellow&timeout=" + SHARDS_TIMEOUT : "/");
        System.out.println("READY " + port);
        System.out.println("TRANSPORT " + boundPort(home.resolve("logs/transport.ports")));
        System.out.flush();
        if (Boolean.getBoolean("data-patch.exit-when-ready")) {
            System.exit(0);
        }
        Thread.currentThread().join();
    }

    private static Map<String, String> settings(Path home, String[] arguments) {
        Map<String, String> settings = new LinkedHashMap<>();
        settings.put("path.home", home.toString());
        settings.put("path.data", home.resolve("data").toString());
        settings.put("path.logs", home.resolve("logs").toString());
        settings.put("cluster.name", "data-patch-test");
        settings.put("node.name", "node-1");
        settings.put("network.host", "127.0.0.1");
        settings.put("http.port", arguments[1]);
        settings.put("transport.port", "0");
        settings.put("node.portsfile", "true");
        // The disks of test machines may be fuller than what a server wants.
        settings.put("cluster.routing.allocation.disk.threshold_enabled", "false");
        boolean joins = false;
        for (int i = 2; i < arguments.length; i++) {
            int equals = arguments[i].indexOf('=');
            if (equals < 1) {
                System.err.println("not key=value: " + arguments[i]);
                System.exit(2);
            }
            String key = arguments[i].substring(0, equals);
            settings.put(key, arguments[i].substring(equals + 1));
            joins |= key.startsWith("discovery.") || key.startsWith("cluster.initial_");
        }
        if (!joins) {
            settings.put("discovery.type", "single-node");
        }
        return settings;
    }

    /** Ends the process at once when the parent closes our stdin, or is gone. */
    private static void watchStdin() {
        Thread watch = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {
                    // nothing is expected
                }
            } catch (IOException gone) {
                // as good as closed
            }
            Runtime.getRuntime().halt(0);
        });
        watch.setDaemon(true);
        watch.start();
    }

    private static void close(Closeable node) {
        try {
            node.close();
        } catch (IOException error) {
            error.printStackTrace();
        }
    }

    /** The port of the first address in a file that {@code node.portsfile} makes. */
    private static int boundPort(Path file) throws IOException {
        String first = Files.readAllLines(file).get(0);
        return Integer.parseInt(first.substring(first.lastIndexOf(':') + 1).trim());
    }

    private static void waitUntilAnswered(int port, String path) throws Exception {
        URL url = new URL("http://127.0.0.1:" + port + path);
        while (true) {
            HttpURLConnection connection = (HttpURLConnection) url.openConnection();
            int status = connection.getResponseCode();
            InputStream body = status < 400 ? connection.getInputStream() : connection.getErrorStream();
            if (body != null) {
                body.close();
            }
            // 408: the shards were not found in time.
            if (status == 200 || status == 408) {
                return;
            }
            Thread.sleep(50);
        }
    }
}
