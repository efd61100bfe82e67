import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.ServerCredentials;
import io.grpc.ServerInterceptors;
import io.grpc.TlsServerCredentials;
import io.grpc.testing.integration.TestServiceImpl;
import java.io.File;
import java.util.concurrent.Executors;

/**
 * grpc-java's own interop service on a free port, which is printed on the first line. The server of
 * the artifact cannot be given certificates; this one takes those in the folder that it is told.
 */
public final class InteropServer {
  public static void main(String[] args) throws Exception {
    var service = new TestServiceImpl(Executors.newScheduledThreadPool(4));
    Server server =
        Grpc.newServerBuilderForPort(0, credentials(args[0], args.length > 1 ? args[1] : null))
            .maxInboundMessageSize(16 << 20)
            .addService(ServerInterceptors.intercept(service, TestServiceImpl.interceptors()))
            .build()
            .start();
    System.out.println(server.getPort());
    server.awaitTermination();
  }

  private static ServerCredentials credentials(String security, String folder) throws Exception {
    if (security.equals("plaintext")) {
      return InsecureServerCredentials.create();
    }
    var builder =
        TlsServerCredentials.newBuilder()
            .keyManager(new File(folder, "server.pem"), new File(folder, "server.key"));
    if (security.equals("mtls")) {
      builder
          .trustManager(new File(folder, "ca.pem"))
          .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE);
    }
    return builder.build();
  }
}
