package example;

import dev.openfeature.contrib.providers.flagd.Config;
import dev.openfeature.contrib.providers.flagd.FlagdOptions;
import dev.openfeature.contrib.providers.flagd.FlagdProvider;
import dev.openfeature.sdk.ImmutableContext;
import dev.openfeature.sdk.OpenFeatureAPI;
import flagsvc.v1.FlagServiceGrpc;
import flagsvc.v1.FlagServiceOuterClass.EvaluateFlagRequest;
import flagsvc.v1.Types.EvaluationContext;
import io.grpc.ManagedChannelBuilder;
import java.util.concurrent.TimeUnit;

/** Asks flagsvc for one flag in three ways: HOST PORT SYNC_PORT KEY TARGETING_KEY. */
public final class Main {
    private Main() {}

    public static void main(String[] arguments) throws Exception {
        String host = arguments[0];
        int port = Integer.parseInt(arguments[1]);
        int syncPort = Integer.parseInt(arguments[2]);
        String key = arguments[3];
        String targetingKey = arguments[4];
        stub(host, port, key, targetingKey);
        provider("flagd rpc", Config.Resolver.RPC, host, port, key, targetingKey);
        provider("flagd in-process", Config.Resolver.IN_PROCESS, host, syncPort, key, targetingKey);
        OpenFeatureAPI.getInstance().shutdown();
    }

    private static void stub(String host, int port, String key, String targetingKey) throws InterruptedException {
        var channel = ManagedChannelBuilder.forAddress(host, port).usePlaintext().build();
        var context = EvaluationContext.newBuilder().setTargetingKey(targetingKey);
        var request = EvaluateFlagRequest.newBuilder().setFlagKey(key).setContext(context).build();
        var stub = FlagServiceGrpc.newBlockingStub(channel).withDeadlineAfter(5, TimeUnit.SECONDS);
        var found = stub.evaluateFlag(request).getEvaluation();
        System.out.printf("stub: %s %s %s%n", found.getValue().getBooleanValue(), found.getVariant(), found.getReason());
        channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }

    private static void provider(
            String name, Config.Resolver resolver, String host, int port, String key, String targetingKey) {
        // A cold JVM on a busy machine needs more than the second that the provider waits for its first flags.
        var options = FlagdOptions.builder().resolverType(resolver).host(host).port(port).deadline(10_000).build();
        OpenFeatureAPI.getInstance().setProviderAndWait(name, new FlagdProvider(options));
        var client = OpenFeatureAPI.getInstance().getClient(name);
        var found = client.getBooleanDetails(key, false, new ImmutableContext(targetingKey));
        System.out.printf("%s: %s %s %s%n", name, found.getValue(), found.getVariant(), found.getReason());
    }
}
