// Command callers makes the calls of goaway_churn with grpc-go's client, to compare with: told an
// address, a number of callers and of seconds, it prints how many calls failed, sorted by how their
// connections ended, in the line that interop/run reads.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// As in interop/src/churn.rs.
const (
	callTimeMax    = 10 * time.Second
	afterFailure   = 10 * time.Millisecond
	streamMessages = 4
	streamInterval = 50 * time.Millisecond
)

var kinds = []struct {
	stream bool
	size   int
}{{false, 1_000}, {false, 20_000}, {true, 1_000}, {true, 20_000}}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: callers ADDRESS CALLERS SECONDS")
	}
	callers, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatalf("callers: %v", err)
	}
	seconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatalf("seconds: %v", err)
	}
	// One of each kind: a connection that is told to go away stays open for a stream, and would not
	// be closed right behind an answer.
	services := make([]testgrpc.TestServiceClient, len(kinds))
	for nth := range services {
		client, err := grpc.NewClient("passthrough:///"+os.Args[1],
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(dial))
		if err != nil {
			log.Fatalf("client: %v", err)
		}
		defer client.Close()
		services[nth] = testgrpc.NewTestServiceClient(client)
	}
	end := time.Now().Add(time.Duration(seconds) * time.Second)
	var all sync.WaitGroup
	for nth := range callers {
		kind, service := kinds[nth%len(kinds)], services[nth%len(kinds)]
		all.Go(func() {
			for time.Now().Before(end) {
				if err := call(service, kind.stream, kind.size); err != nil {
					time.Sleep(afterFailure)
				}
			}
		})
	}
	all.Wait()
	fmt.Printf("unary=%d streams=%d connections=%d write=%d reset=%d other=%d\n",
		unary.Load(), streams.Load(), connections.Load(), failedWrite.Load(), reset.Load(), other.Load())
}

var unary, streams, connections, failedWrite, reset, other, calls atomic.Int64

func call(service testgrpc.TestServiceClient, stream bool, size int) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeMax)
	defer cancel()
	number := calls.Add(1)
	body := make([]byte, size)
	binary.BigEndian.PutUint64(body[copy(body, mark):], uint64(number))
	payload := &testgrpc.Payload{Body: body}
	var err error
	if stream {
		streams.Add(1)
		err = pingPong(ctx, service, payload)
	} else {
		unary.Add(1)
		_, err = service.UnaryCall(ctx, &testgrpc.SimpleRequest{ResponseSize: int32(size), Payload: payload})
	}
	last, _ := sentOn.LoadAndDelete(number)
	if err != nil {
		sort(last)
	}
	return err
}

func pingPong(ctx context.Context, service testgrpc.TestServiceClient, payload *testgrpc.Payload) error {
	stream, err := service.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	request := &testgrpc.StreamingOutputCallRequest{
		ResponseParameters: []*testgrpc.ResponseParameters{{
			Size:       int32(len(payload.Body)),
			IntervalUs: int32(streamInterval.Microseconds()),
		}},
		Payload: payload,
	}
	for range streamMessages {
		if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("expected the end: %w", err)
	}
	return nil
}

// sort counts a failed call by the end of the connection that it was sent on last.
func sort(last any) {
	conn, _ := last.(*watched)
	switch {
	case conn != nil && conn.reset.Load():
		reset.Add(1)
	case conn != nil && conn.writeFailed.Load():
		failedWrite.Add(1)
	default:
		other.Add(1)
	}
}

// sentOn has for the number of each call under way the connection that it was sent on last.
var sentOn sync.Map

// What stands before the number of a call, as in interop/src/ledger.rs.
var mark = []byte("call no ")

func dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	connections.Add(1)
	return &watched{Conn: conn}, nil
}

// watched is a connection whose end and whose calls are written down.
type watched struct {
	net.Conn
	reset, writeFailed atomic.Bool
	// The end of what was written, where a mark may have begun.
	tail []byte
}

func (w *watched) Read(bytes []byte) (int, error) {
	count, err := w.Conn.Read(bytes)
	if errors.Is(err, syscall.ECONNRESET) {
		w.reset.Store(true)
	}
	return count, err
}

func (w *watched) Write(written []byte) (int, error) {
	rest := append(w.tail, written...)
	for {
		at := bytes.Index(rest, mark)
		if at < 0 || len(rest) < at+len(mark)+8 {
			break
		}
		rest = rest[at+len(mark):]
		sentOn.Store(int64(binary.BigEndian.Uint64(rest)), w)
	}
	w.tail = append([]byte(nil), rest[max(0, len(rest)-len(mark)-7):]...)
	count, err := w.Conn.Write(written)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		w.writeFailed.Store(true)
	}
	return count, err
}
