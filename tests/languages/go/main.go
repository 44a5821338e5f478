// An application with an unmodified Go provider, driven by JSON lines: MODE HOST PORT SELECTOR.
//
// MODE: rpc, in-process, ofrep, or multi (the SDK's multi-provider around rpc and ofrep at OFREP_PORT). SELECTOR: empty for none.
// In its environment: CA, the file with the CA of a server with TLS; TOKEN; CERTIFICATE and KEY, its own. Standard input: {"id", "kind", "key", "default", "context"}, one evaluation a line.
// Standard output: {"id", "value", ...} for each, and {"event", "flags"} for each event that a handler sees.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"net/http"
	"os"
	"strconv"
	"sync"

	flagd "github.com/open-feature/go-sdk-contrib/providers/flagd/pkg"
	"github.com/open-feature/go-sdk-contrib/providers/ofrep"
	of "github.com/open-feature/go-sdk/openfeature"
	"github.com/open-feature/go-sdk/openfeature/multi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

var ca, token, certificate, key = os.Getenv("CA"), os.Getenv("TOKEN"), os.Getenv("CERTIFICATE"), os.Getenv("KEY")

type question struct {
	ID      int             `json:"id"`
	Kind    string          `json:"kind"`
	Key     string          `json:"key"`
	Default json.RawMessage `json:"default"`
	Context map[string]any  `json:"context"`
}

var output sync.Mutex

func say(line map[string]any) {
	output.Lock()
	defer output.Unlock()
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		log.Fatal(err)
	}
}

func provider(mode, host string, port uint16, selector string) (of.FeatureProvider, error) {
	options := []flagd.ProviderOption{flagd.WithHost(host), flagd.WithPort(port)}
	headers := []ofrep.Option{}
	scheme := "http"
	if selector != "" {
		options = append(options, flagd.WithSelector(selector))
		headers = append(headers, ofrep.WithHeader("Flagd-Selector", selector))
	}
	if ca != "" {
		scheme = "https"
		options = append(options, flagd.WithTLS(ca))
		headers = append(headers, ofrep.WithClient(&http.Client{Transport: &http.Transport{TLSClientConfig: trust()}}))
	}
	if token != "" {
		headers = append(headers, ofrep.WithBearerToken(token))
	}
	if token != "" || certificate != "" {
		options = append(options, flagd.WithGrpcDialOptionsOverride(dialOptions()))
	}
	switch mode {
	case "rpc":
		return flagd.NewProvider(options...)
	case "in-process":
		return flagd.NewProvider(append(options, flagd.WithInProcessResolver())...)
	case "ofrep":
		return ofrep.NewProvider(fmt.Sprintf("%s://%s:%d", scheme, host, port), headers...), nil
	case "multi":
		first, err := flagd.NewProvider(options...)
		if err != nil {
			return nil, err
		}
		second := ofrep.NewProvider(fmt.Sprintf("%s://%s:%s", scheme, host, os.Getenv("OFREP_PORT")), headers...)
		return multi.NewProvider(multi.StrategyFirstMatch, multi.WithProvider("rpc", first), multi.WithProvider("ofrep", second))
	}
	return nil, fmt.Errorf("no mode %q: it is rpc, in-process, ofrep or multi", mode)
}

// What a client for TLS trusts, and the certificate that it shows.
func trust() *tls.Config {
	pem, err := os.ReadFile(ca)
	if err != nil {
		log.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(pem)
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			log.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// What replaces the options of the provider in process, so the transport too.
func dialOptions() []grpc.DialOption {
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if ca != "" {
		options = []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(trust()))}
	}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer{}))
	}
	return options
}

type bearer struct{}

func (bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (bearer) RequireTransportSecurity() bool { return ca != "" }

func report(event of.EventType) {
	callback := func(details of.EventDetails) {
		say(map[string]any{"event": event, "flags": details.FlagChanges})
	}
	of.AddHandler(event, &callback)
}

func main() {
	port, err := strconv.ParseUint(os.Args[3], 10, 16)
	if err != nil {
		log.Fatal(err)
	}
	chosen, err := provider(os.Args[1], os.Args[2], uint16(port), os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	for _, event := range []of.EventType{of.ProviderReady, of.ProviderConfigChange, of.ProviderStale, of.ProviderError} {
		report(event)
	}
	if err := of.SetProviderAndWait(chosen); err != nil {
		say(map[string]any{"failed": err.Error()})
	}
	client := of.NewClient("app")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var asked question
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			log.Fatal(err)
		}
		value, found := evaluate(client, asked)
		say(map[string]any{
			"id": asked.ID, "value": value, "reason": found.Reason, "variant": found.Variant,
			"errorCode": found.ErrorCode, "metadata": found.FlagMetadata,
		})
	}
}

func evaluate(client *of.Client, asked question) (any, of.EvaluationDetails) {
	ctx, subject := context.Background(), subject(asked.Context)
	switch asked.Kind {
	case "boolean":
		found, _ := client.BooleanValueDetails(ctx, asked.Key, read[bool](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "string":
		found, _ := client.StringValueDetails(ctx, asked.Key, read[string](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "integer":
		found, _ := client.IntValueDetails(ctx, asked.Key, read[int64](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	case "float":
		found, _ := client.FloatValueDetails(ctx, asked.Key, read[float64](asked.Default), subject)
		return found.Value, found.EvaluationDetails
	}
	found, _ := client.ObjectValueDetails(ctx, asked.Key, read[any](asked.Default), subject)
	return found.Value, found.EvaluationDetails
}

func subject(attributes map[string]any) of.EvaluationContext {
	rest := maps.Clone(attributes)
	delete(rest, "targetingKey")
	if key, ok := attributes["targetingKey"].(string); ok {
		return of.NewEvaluationContext(key, rest)
	}
	return of.NewTargetlessEvaluationContext(rest)
}

func read[T any](text json.RawMessage) (value T) {
	if err := json.Unmarshal(text, &value); err != nil {
		log.Fatal(err)
	}
	return value
}
