// Command channelz asks a channelz service of one channel with grpc-go's own client and messages,
// checks that all of what it says fits together, and prints it.
package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/channelz/grpc_channelz_v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What the client under test has done before it serves.
const (
	succeeded = 20
	failed    = 5
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: channelz ADDRESS plaintext|tls")
	}
	conn, err := grpc.NewClient(os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(err == nil, "cannot make a client: %v", err)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := pb.NewChannelzClient(conn)

	top, err := client.GetTopChannels(ctx, &pb.GetTopChannelsRequest{})
	must(err, top)
	check(len(top.Channel) == 1 && top.End, "expected one channel: %v", top)
	channel := top.Channel[0]
	calls(channel.Data)
	check(len(channel.ChannelRef) == 1, "expected one nested channel: %v", channel)
	one, err := client.GetChannel(ctx, &pb.GetChannelRequest{ChannelId: channel.Ref.ChannelId})
	must(err, one)
	check(one.Channel.Ref.ChannelId == channel.Ref.ChannelId, "asked for another: %v", one)
	nested, err := client.GetChannel(ctx,
		&pb.GetChannelRequest{ChannelId: channel.ChannelRef[0].ChannelId})
	must(err, nested)
	check(nested.Channel.Data.CallsStarted == 0, "the nested one has made no call: %v", nested)
	rest, err := client.GetTopChannels(ctx,
		&pb.GetTopChannelsRequest{StartChannelId: channel.Ref.ChannelId + 1, MaxResults: 10})
	must(err, rest)
	check(len(rest.Channel) == 0 && rest.End, "expected an empty page: %v", rest)

	used := 0
	for _, ref := range channel.SubchannelRef {
		reply, err := client.GetSubchannel(ctx,
			&pb.GetSubchannelRequest{SubchannelId: ref.SubchannelId})
		must(err, reply)
		if reply.Subchannel.Data.CallsStarted == 0 {
			continue // One of an address that nobody listens at.
		}
		used++
		calls(reply.Subchannel.Data)
		check(len(reply.Subchannel.SocketRef) == 1, "expected one socket: %v", reply)
		id := reply.Subchannel.SocketRef[0].SocketId
		answer, err := client.GetSocket(ctx, &pb.GetSocketRequest{SocketId: id})
		must(err, answer)
		socket(answer.Socket, os.Args[2] == "tls")
	}
	check(used == 1, "expected one subchannel to have had the calls, and %d have", used)

	servers, err := client.GetServers(ctx, &pb.GetServersRequest{})
	must(err, servers)
	check(len(servers.Server) == 0 && servers.End, "a client has no servers: %v", servers)
	const nobody = 1 << 40
	_, err = client.GetChannel(ctx, &pb.GetChannelRequest{ChannelId: nobody})
	missing(err)
	_, err = client.GetSubchannel(ctx, &pb.GetSubchannelRequest{SubchannelId: channel.Ref.ChannelId})
	missing(err)
	_, err = client.GetSocket(ctx, &pb.GetSocketRequest{SocketId: nobody})
	missing(err)
	_, err = client.GetServer(ctx, &pb.GetServerRequest{ServerId: 1})
	missing(err)
	_, err = client.GetServerSockets(ctx, &pb.GetServerSocketsRequest{ServerId: 1})
	missing(err)
}

// calls checks what a channel and its only subchannel have in common.
func calls(data *pb.ChannelData) {
	check(data.State.State == pb.ChannelConnectivityState_READY, "expected READY: %v", data)
	check(data.CallsStarted == succeeded+failed && data.CallsSucceeded == succeeded &&
		data.CallsFailed == failed, "expected %d calls, %d failed: %v", succeeded+failed, failed, data)
	recent(data.LastCallStartedTimestamp.AsTime())
	trace := data.Trace
	check(len(trace.Events) > 1 && int64(len(trace.Events)) <= trace.NumEventsLogged,
		"expected a trace: %v", data)
	recent(trace.CreationTimestamp.AsTime())
	for _, event := range trace.Events {
		check(event.Description != "" && event.Severity != pb.ChannelTraceEvent_CT_UNKNOWN,
			"an event says nothing: %v", event)
		recent(event.Timestamp.AsTime())
	}
}

func socket(socket *pb.Socket, tls bool) {
	data := socket.Data
	check(data.StreamsStarted == succeeded+failed && data.StreamsSucceeded == succeeded+failed &&
		data.StreamsFailed == 0, "every stream was answered to its end: %v", data)
	check(data.MessagesSent == succeeded+failed && data.MessagesReceived == succeeded,
		"expected a message each way, but for calls that failed: %v", data)
	recent(data.LastLocalStreamCreatedTimestamp.AsTime())
	recent(data.LastMessageSentTimestamp.AsTime())
	recent(data.LastMessageReceivedTimestamp.AsTime())
	check(data.RemoteFlowControlWindow.GetValue() > 0, "expected a window: %v", data)
	check(len(data.Option) > 0, "expected options of the socket: %v", data)
	for _, end := range []*pb.Address{socket.Local, socket.Remote} {
		ip := end.GetTcpipAddress()
		check(ip != nil && ip.Port > 0 && (len(ip.IpAddress) == 4 || len(ip.IpAddress) == 16),
			"expected an address: %v", end)
	}
	if !tls {
		check(socket.Security == nil, "expected no security: %v", socket.Security)
		return
	}
	check(socket.Security.GetTls().GetStandardName() != "", "expected a cipher suite: %v", socket)
	_, err := x509.ParseCertificate(socket.Security.GetTls().RemoteCertificate)
	check(err == nil, "expected the server's certificate: %v", err)
}

func recent(at time.Time) {
	ago := time.Since(at)
	check(ago > -time.Second && ago < time.Minute, "a time is off by %v", ago)
}

func missing(err error) {
	check(status.Code(err) == codes.NotFound, "expected NOT_FOUND: %v", err)
}

// must prints an answer, of which nothing may be unknown to these messages.
func must(err error, answer proto.Message) {
	check(err == nil, "the service fails: %v", err)
	known(answer.ProtoReflect())
	fmt.Println(prototext.MarshalOptions{Multiline: true}.Format(answer))
}

func known(message protoreflect.Message) {
	check(len(message.GetUnknown()) == 0, "an answer has fields that nobody knows: %v", message)
	message.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for i := range value.List().Len() {
				known(value.List().Get(i).Message())
			}
		default:
			known(value.Message())
		}
		return true
	})
}

func check(is bool, format string, args ...any) {
	if !is {
		log.Fatalf(format, args...)
	}
}
