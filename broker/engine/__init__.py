"""Operations made durable: ``advance`` does one step, an engine calls it until the operation is over."""
