// Command churn is an interop server that ends every connection soon after it was made: a GOAWAY
// after 50 ms, and what is still open 5 s later is cut off. With -keep it keeps them, as other
// servers do. It listens on loopback alone and prints its port on the first line.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
)

func main() {
	keep := flag.Bool("keep", false, "keep connections")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatalf("cannot listen: %v", err)
	}
	age := keepalive.ServerParameters{
		MaxConnectionAge:      50 * time.Millisecond,
		MaxConnectionAgeGrace: 5 * time.Second,
	}
	if *keep {
		age = keepalive.ServerParameters{}
	}
	server := grpc.NewServer(
		grpc.KeepaliveParams(age),
		// Clients may ask as often as grpc-go's may at most.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
	)
	testgrpc.RegisterTestServiceServer(server, interop.NewTestServer())
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
