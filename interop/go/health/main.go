// Command health is an interop server with a health service, which the official one does not have.
// A unary call with the metadata `set-health: SERVICE=STATUS` changes what that says of a service:
// at first, that the server as a whole serves, and nothing of any other. It is told plaintext, tls
// or mtls and a folder of certificates, listens on loopback alone and prints its port on the first
// line.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: health plaintext|tls|mtls FOLDER-OF-CERTIFICATES")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatalf("cannot listen: %v", err)
	}
	checks := health.NewServer()
	server := grpc.NewServer(
		grpc.Creds(transport(os.Args[1], os.Args[2])),
		grpc.UnaryInterceptor(setHealth(checks)),
	)
	healthgrpc.RegisterHealthServer(server, checks)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}

func setHealth(checks *health.Server) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for _, wish := range metadata.ValueFromIncomingContext(ctx, "set-health") {
			service, name, _ := strings.Cut(wish, "=")
			serving, known := healthgrpc.HealthCheckResponse_ServingStatus_value[name]
			if !known {
				return nil, status.Errorf(codes.InvalidArgument, "set-health: there is no status %q", name)
			}
			checks.SetServingStatus(service, healthgrpc.HealthCheckResponse_ServingStatus(serving))
		}
		return handler(ctx, request)
	}
}

func transport(security, folder string) credentials.TransportCredentials {
	if security == "plaintext" {
		return insecure.NewCredentials()
	}
	certificate, err := tls.LoadX509KeyPair(filepath.Join(folder, "server.pem"), filepath.Join(folder, "server.key"))
	if err != nil {
		log.Fatalf("cannot read the certificate: %v", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{certificate}}
	if security == "mtls" {
		pem, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
		if err != nil {
			log.Fatalf("cannot read the certificate of the CA: %v", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			log.Fatal("the CA has no certificate")
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return credentials.NewTLS(config)
}
