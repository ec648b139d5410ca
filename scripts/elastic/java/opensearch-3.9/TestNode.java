import java.io.Closeable;
import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.opensearch.Version;
import org.opensearch.common.settings.Settings;
import org.opensearch.env.Environment;
import org.opensearch.node.Node;
import org.opensearch.plugins.PluginInfo;
import org.opensearch.transport.Netty4ModulePlugin;

final class TestNode extends Node {
    private TestNode(Environment environment) {
        super(environment, List.of(netty()), false);
    }

    /** Plugins of the class path are described here, as the descriptor in a plugin's folder does. */
    private static PluginInfo netty() {
        return new PluginInfo("transport-netty4", "HTTP and transport", "1", Version.CURRENT, "21",
            Netty4ModulePlugin.class.getName(), null, Collections.emptyList(), false);
    }

    static Closeable start(Path home, Map<String, String> settings) throws Exception {
        Settings.Builder builder = Settings.builder();
        settings.forEach(builder::put);
        builder.put("http.type", "netty4").put("transport.type", "netty4");
        return new TestNode(new Environment(builder.build(), home.resolve("config"))).start();
    }
}
