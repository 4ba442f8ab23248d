"""Operations: Op, Plan, Step, their lowering, and the measurement over them."""
