import java.io.Closeable;
import java.nio.file.Path;
import java.util.Collections;
import java.util.Map;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.Node;
import org.elasticsearch.transport.Netty4Plugin;

final class TestNode extends Node {
    private TestNode(Environment environment) {
        super(environment, Collections.singletonList(Netty4Plugin.class), false);
    }

    static Closeable start(Path home, Map<String, String> settings) throws Exception {
        Settings.Builder builder = Settings.builder();
        settings.forEach(builder::put);
        builder.put("http.type", "netty4").put("transport.type", "netty4");
        return new TestNode(new Environment(builder.build(), home.resolve("config"))).start();
    }
}
