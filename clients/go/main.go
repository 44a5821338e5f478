// Asks flagsvc for one flag through its stub: HOST:PORT KEY TARGETING_KEY.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	flagsvc "flagsvc.stubs/flagsvc/v1"
)

func main() {
	target, key, targetingKey := os.Args[1], os.Args[2], os.Args[3]
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	answer, err := flagsvc.NewFlagServiceClient(connection).EvaluateFlag(ctx, &flagsvc.EvaluateFlagRequest{
		FlagKey: key,
		Context: &flagsvc.EvaluationContext{TargetingKey: targetingKey},
	})
	if err != nil {
		log.Fatal(err)
	}
	found := answer.GetEvaluation()
	fmt.Println("stub:", found.GetValue().GetBooleanValue(), found.GetVariant(), found.GetReason())
}
