// Command unread makes the calls of unread_streams with grpc-go's client, to compare with: told an
// address, it leaves streams of small messages unread while it makes unary calls, then reads them,
// and prints how many calls failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// As in interop/src/unread.rs. A window of 0 is the client's own choice.
var (
	windows = []int32{0, 65_535}
	streams = []int{1, 5, 40}
	sizes   = []int{0, 20, 100, 300}
)

const (
	sizeSteps   = 7
	messages    = 2_000
	calls       = 60
	callTimeMax = 5 * time.Second
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: unread ADDRESS")
	}
	made, failed := 0, 0
	for _, window := range windows {
		options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		if window > 0 {
			options = append(options, grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window))
		}
		client, err := grpc.NewClient(os.Args[1], options...)
		if err != nil {
			log.Fatalf("client: %v", err)
		}
		service := testgrpc.NewTestServiceClient(client)
		for _, count := range streams {
			for _, size := range sizes {
				if err := beside(service, count, size, &failed); err != nil {
					log.Fatalf("%d streams of messages of %d bytes: %v", count, size, err)
				}
				made += calls
			}
		}
		client.Close()
	}
	fmt.Printf("grpc-go:     %d unary calls beside unread streams, %d failed\n", made, failed)
}

// beside leaves count streams unread while unary calls are made, and reads them to their end.
func beside(service testgrpc.TestServiceClient, count, size int, failed *int) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request := &testgrpc.StreamingOutputCallRequest{}
	for nth := range messages {
		request.ResponseParameters = append(request.ResponseParameters,
			&testgrpc.ResponseParameters{Size: int32(size + nth%sizeSteps)})
	}
	var unread []testgrpc.TestService_StreamingOutputCallClient
	for range count {
		stream, err := service.StreamingOutputCall(ctx, request)
		if err != nil {
			return err
		}
		if _, err := stream.Header(); err != nil {
			return err
		}
		unread = append(unread, stream)
	}
	for range calls {
		ctx, cancel := context.WithTimeout(ctx, callTimeMax)
		if _, err := service.UnaryCall(ctx, &testgrpc.SimpleRequest{}); err != nil {
			*failed++
		}
		cancel()
	}
	for _, stream := range unread {
		for nth := range messages {
			response, err := stream.Recv()
			if err != nil {
				return fmt.Errorf("message %d: %w", nth, err)
			}
			if got := len(response.GetPayload().GetBody()); got != size+nth%sizeSteps {
				return fmt.Errorf("message %d has %d bytes", nth, got)
			}
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("expected the end: %w", err)
		}
	}
	return nil
}
