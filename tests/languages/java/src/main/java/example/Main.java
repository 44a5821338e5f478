package example;

import com.google.common.collect.ImmutableList;
import com.google.common.collect.ImmutableMap;
import com.google.gson.Gson;
import com.google.gson.JsonObject;
import dev.openfeature.contrib.providers.flagd.Config;
import dev.openfeature.contrib.providers.flagd.FlagdOptions;
import dev.openfeature.contrib.providers.flagd.FlagdProvider;
import dev.openfeature.contrib.providers.ofrep.OfrepProvider;
import dev.openfeature.contrib.providers.ofrep.OfrepProviderOptions;
import dev.openfeature.sdk.Client;
import dev.openfeature.sdk.EvaluationContext;
import dev.openfeature.sdk.FeatureProvider;
import dev.openfeature.sdk.FlagEvaluationDetails;
import dev.openfeature.sdk.ImmutableContext;
import dev.openfeature.sdk.OpenFeatureAPI;
import dev.openfeature.sdk.ProviderEvent;
import dev.openfeature.sdk.Structure;
import dev.openfeature.sdk.Value;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * An application with an unmodified provider, driven by JSON lines: MODE HOST PORT SELECTOR; MODE: rpc, in-process or ofrep.
 *
 * <p>In its environment: CA and TOKEN, as in ../go/main.go. The JVM's options name the CA for HTTP.
 */
public final class Main {
    private static final PrintStream OUT = new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
    private static final Gson GSON = new Gson();
    private static final String CA = System.getenv().getOrDefault("CA", "");
    private static final String TOKEN = System.getenv().getOrDefault("TOKEN", "");

    private Main() {}

    public static void main(String[] arguments) throws Exception {
        var api = OpenFeatureAPI.getInstance();
        for (var event : ProviderEvent.values()) {
            api.on(event, details -> say(Map.of(
                    "event", event.name(), "flags", details.getFlagsChanged() == null ? List.of() : details.getFlagsChanged())));
        }
        try {
            api.setProviderAndWait(provider(arguments[0], arguments[1], arguments[2], arguments[3]));
        } catch (RuntimeException error) {
            say(Map.of("failed", String.valueOf(error.getMessage())));
        }
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (var line = lines.readLine(); line != null; line = lines.readLine()) {
            say(answer(api.getClient(), GSON.fromJson(line, JsonObject.class)));
        }
        System.exit(0);
    }

    private static FeatureProvider provider(String mode, String host, String port, String selector) {
        return mode.equals("ofrep") ? ofrep(host, port, selector) : flagd(mode, host, port, selector);
    }

    private static FeatureProvider flagd(String mode, String host, String port, String selector) {
        var resolver = mode.equals("rpc") ? Config.Resolver.RPC : Config.Resolver.IN_PROCESS;
        var options = FlagdOptions.builder().resolverType(resolver).host(host).port(Integer.parseInt(port));
        if (!selector.isEmpty()) {
            options.selector(selector);
        }
        if (!CA.isEmpty()) {
            options.tls(true).certPath(CA);
        }
        if (!TOKEN.isEmpty()) {
            var headers = new Metadata();
            headers.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), "Bearer " + TOKEN);
            options.clientInterceptors(List.of(MetadataUtils.newAttachHeadersInterceptor(headers)));
        }
        return new FlagdProvider(options.build());
    }

    private static FeatureProvider ofrep(String host, String port, String selector) {
        var headers = ImmutableMap.<String, ImmutableList<String>>builder();
        if (!selector.isEmpty()) {
            headers.put("Flagd-Selector", ImmutableList.of(selector));
        }
        if (!TOKEN.isEmpty()) {
            headers.put("Authorization", ImmutableList.of("Bearer " + TOKEN));
        }
        var url = (CA.isEmpty() ? "http://" : "https://") + host + ":" + port;
        return OfrepProvider.constructProvider(
                OfrepProviderOptions.builder().baseUrl(url).headers(headers.build()).build());
    }

    private static Map<String, Object> answer(Client client, JsonObject asked) {
        var key = asked.get("key").getAsString();
        var fallback = asked.get("default");
        var context = context(GSON.fromJson(asked.get("context"), Map.class));
        FlagEvaluationDetails<?> found = switch (asked.get("kind").getAsString()) {
            case "boolean" -> client.getBooleanDetails(key, fallback.getAsBoolean(), context);
            case "string" -> client.getStringDetails(key, fallback.getAsString(), context);
            case "integer" -> client.getIntegerDetails(key, fallback.getAsInt(), context);
            case "float" -> client.getDoubleDetails(key, fallback.getAsDouble(), context);
            default -> client.getObjectDetails(key, value(GSON.fromJson(fallback, Object.class)), context);
        };
        var line = new HashMap<String, Object>();
        line.put("id", asked.get("id").getAsInt());
        line.put("value", found.getValue() instanceof Value value ? plain(value) : found.getValue());
        line.put("reason", found.getReason());
        line.put("variant", found.getVariant());
        line.put("errorCode", found.getErrorCode() == null ? null : found.getErrorCode().name());
        line.put("metadata", found.getFlagMetadata() == null ? null : found.getFlagMetadata().asUnmodifiableMap());
        return line;
    }

    private static EvaluationContext context(Map<String, Object> attributes) {
        var key = attributes.remove("targetingKey");
        Map<String, Value> values = value(attributes).asStructure().asMap();
        return key == null ? new ImmutableContext(values) : new ImmutableContext((String) key, values);
    }

    private static Value value(Object plain) {
        return Value.objectToValue(plain);
    }

    private static Object plain(Value value) {
        if (value.isStructure()) {
            var fields = new HashMap<String, Object>();
            Structure structure = value.asStructure();
            structure.asMap().forEach((name, field) -> fields.put(name, plain(field)));
            return fields;
        }
        return value.isList() ? value.asList().stream().map(Main::plain).toList() : value.asObject();
    }

    private static synchronized void say(Map<String, Object> line) {
        OUT.println(GSON.toJson(line));
    }
}
