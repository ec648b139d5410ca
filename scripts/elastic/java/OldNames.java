import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The settings of Elasticsearch 7 and later under the names that 5 and 6 have for them. */
final class OldNames {
    static Map<String, String> of(Map<String, String> settings) {
        Map<String, String> old = new LinkedHashMap<>(settings);
        rename(old, "transport.port", "transport.tcp.port");
        rename(old, "discovery.seed_hosts", "discovery.zen.ping.unicast.hosts");
        // Three seconds by default, in which a node that starts waits for others to answer.
        old.putIfAbsent("discovery.zen.ping_timeout", "500ms");
        // Instead of a first election among named nodes there is a number of nodes that must be seen: one by default.
        old.remove("cluster.initial_master_nodes");
        String roles = old.remove("node.roles");
        if (roles != null) {
            List<String> named = Arrays.asList(roles.split(","));
            for (String role : Arrays.asList("master", "data", "ingest")) {
                old.put("node." + role, Boolean.toString(named.contains(role)));
            }
        }
        return old;
    }

    private static void rename(Map<String, String> settings, String from, String to) {
        String value = settings.remove(from);
        if (value != null) {
            settings.putIfAbsent(to, value);
        }
    }
}
