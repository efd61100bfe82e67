// Command binlog reads a binary log with grpc-go's own messages, and prints a line for each entry.
// It fails where one cannot be read, or where the entries of a call are out of order.
package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"os"

	pb "google.golang.org/grpc/binarylog/grpc_binarylog_v1"
	"google.golang.org/protobuf/proto"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: binlog FILE")
	}
	file, err := os.Open(os.Args[1])
	if err != nil {
		log.Fatalf("cannot read the log: %v", err)
	}
	last := map[uint64]uint64{}
	for {
		var length [4]byte
		if _, err := io.ReadFull(file, length[:]); err == io.EOF {
			break
		} else if err != nil {
			log.Fatalf("the log ends within a length: %v", err)
		}
		encoded := make([]byte, binary.BigEndian.Uint32(length[:]))
		if _, err := io.ReadFull(file, encoded); err != nil {
			log.Fatalf("the log ends within an entry: %v", err)
		}
		var entry pb.GrpcLogEntry
		if err := proto.Unmarshal(encoded, &entry); err != nil {
			log.Fatalf("an entry cannot be decoded: %v", err)
		}
		if len(entry.ProtoReflect().GetUnknown()) != 0 {
			log.Fatalf("an entry has fields that nobody knows: %v", &entry)
		}
		if entry.SequenceIdWithinCall != last[entry.CallId]+1 {
			log.Fatalf("an entry is out of order: %v", &entry)
		}
		last[entry.CallId]++
		if entry.Logger != pb.GrpcLogEntry_LOGGER_CLIENT || entry.Timestamp.CheckValid() != nil {
			log.Fatalf("an entry has no logger or no time: %v", &entry)
		}
		fmt.Printf("%d %d %v\n", entry.CallId, entry.SequenceIdWithinCall, entry.Type)
	}
	if len(last) == 0 {
		log.Fatal("the log is empty")
	}
}
