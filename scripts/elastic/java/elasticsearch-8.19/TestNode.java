import java.io.Closeable;
import java.io.IOException;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.Build;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginsLoader;

final class TestNode {
    static Closeable start(Path home, Map<String, String> settings) throws Exception {
        // The plugins' scanner logs through an interface that has no implementation before this.
        LogConfigurator.configureESLogging();
        Settings.Builder builder = Settings.builder();
        settings.forEach(builder::put);
        builder.put("http.type", "netty4").put("transport.type", "netty4");
        Environment environment = new Environment(builder.build(), home.resolve("config"));
        addNetty(environment);
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(
            PluginsLoader.loadModulesBundles(environment.modulesDir()), Set.of(), Map.of(), false);
        return new Node(environment, plugins).start();
    }

    /**
     * Netty is taken from a folder of the server alone: in its home, with a descriptor, and not on the class path.
     */
    private static void addNetty(Environment environment) throws IOException {
        Path module = Files.createDirectories(environment.modulesDir().resolve("transport-netty4"));
        Files.write(module.resolve("plugin-descriptor.properties"), List.of(
            "name=transport-netty4",
            "description=HTTP, transport, GET /",
            "version=" + Build.current().version(),
            "elasticsearch.version=" + Build.current().version(),
            "java.version=17",
            "classname=TestPlugin"));
        try (DirectoryStream<Path> jars = Files.newDirectoryStream(Path.of(System.getProperty("data-patch.netty")), "*.jar")) {
            for (Path jar : jars) {
                Path link = module.resolve(jar.getFileName());
                Files.deleteIfExists(link);
                Files.createSymbolicLink(link, jar);
            }
        }
    }
}
