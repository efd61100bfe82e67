// An interop server of grpc-js that ends every connection soon after it was made: gracefully after
// 50 ms, and what is still open 5 s later is cut off. It listens on loopback only and prints its
// port on the first line. It is told the file of the service's definition.
'use strict';

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(process.argv[2], { keepCase: true, enums: String });
const { TestService } = grpc.loadPackageDefinition(definition).grpc.testing;

const server = new grpc.Server({
  'grpc.max_connection_age_ms': 50,
  'grpc.max_connection_age_grace_ms': 5000,
});

const zeros = (size) => ({ body: Buffer.alloc(size) });

server.addService(TestService.service, {
  unaryCall(call, callback) {
    callback(null, { payload: zeros(call.request.response_size) });
  },
  fullDuplexCall(call) {
    // Each response takes its time after the one before.
    let last = Promise.resolve();
    call.on('data', (request) => {
      for (const { size, interval_us: interval } of request.response_parameters) {
        last = last.then(async () => {
          await new Promise((resolve) => setTimeout(resolve, interval / 1000));
          call.write({ payload: zeros(size) });
        });
      }
    });
    call.on('end', () => last.then(() => call.end()));
    call.on('error', () => {});
  },
});

server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) {
    throw error;
  }
  console.log(port);
});
